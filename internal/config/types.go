package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
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
