package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Secret is a value that is never printed.
type Secret string

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the value from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// HasSecret reports whether any option of a struct is a Secret that is set.
func HasSecret(options any) bool { return hasSecret(reflect.ValueOf(options)) }

func hasSecret(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if hasSecret(v.Field(i)) {
				return true
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if hasSecret(v.Index(i)) {
				return true
			}
		}
	case reflect.Pointer:
		return !v.IsNil() && hasSecret(v.Elem())
	}
	return v.Type() == secretType && v.Len() > 0
}

// Size is a number of bytes, written with a unit: 64KiB, 10MB.
type Size int64

var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// maxName bounds the name of a part, in bytes.
const maxName = 200

// CheckName tells what is wrong with the name of a part, as a KeyError of the
// key name: it is in messages, and in the names of files and topics. An empty
// one is not looked at.
func CheckName(name string) error {
	switch {
	case len(name) > maxName:
		return Errorf("name", "has %d bytes; at most %d are allowed", len(name), maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }):
		return Errorf("name", "%q holds characters that cannot be printed; leave them out", name)
	case strings.TrimSpace(name) != name:
		return Errorf("name", "%q begins or ends with a space; leave it out", name)
	}
	return nil
}

// ParseSize reads a Size.
func ParseSize(text string) (Size, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err == nil && v >= 0 && v*u.bytes < math.MaxInt64 {
			return Size(v * u.bytes), nil
		}
		break
	}
	return 0, fmt.Errorf("%q is not a size; write a number with a unit, such as 64KiB, 256MiB or 10MB", text)
}

// String writes the size with the largest binary unit that is exact.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if u := int64(units[i].bytes); s != 0 && int64(s)%u == 0 {
			return fmt.Sprintf("%d%s", int64(s)/u, units[i].name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// DurationText writes a duration as people do: 24h and not 24h0m0s, and 7d from
// two days on. ParseDuration reads it.
func DurationText(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// ParseDuration reads what time.ParseDuration reads, and days: 7d, 1d12h.
func ParseDuration(text string) (time.Duration, error) {
	days, rest, found := strings.Cut(text, "d")
	if !found {
		days, rest = "0", text
	}
	n, err := strconv.ParseFloat(days, 64)
	var d time.Duration
	if err == nil && rest != "" {
		d, err = time.ParseDuration(rest)
	}
	if err != nil || text == "" || d < 0 || n < 0 || n > 36500 {
		return 0, fmt.Errorf("%q is not a duration; write a number with a unit, such as 500ms, 60s, 10m, 24h or 7d", text)
	}
	return time.Duration(n*24*float64(time.Hour)) + d, nil
}
