package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestWhatAFileStandsForIsBounded by its number, whatever few bytes it takes: each
// of these is refused for what it is, within 64 MiB of memory.
func TestWhatAFileStandsForIsBounded(t *testing.T) {
	big := "BIG=" + strings.Repeat("x", 100_000)
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ text, want string }{
		"items":       {"a: [" + strings.Repeat("b,", 2_000_000) + "]", "more than 50000 lines and items"},
		"a list":      {"a: [" + strings.Repeat("b,", 40_000) + "]", "a list has 40000 items; at most 5000"},
		"keys":        {many(49_000, "k%d: 1\n"), "a group has 49000 keys; at most 2000"},
		"depth":       {"a: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000), "9000 deep within each other; at most 100"},
		"long keys":   {"? " + strings.Repeat("k", 100_000) + "\n:\n" + many(1000, " b%d: 1\n"), "its keys are too long"},
		"aliases":     {"a: &a [" + strings.Repeat("x,", 999) + "]\nb: [" + strings.Repeat("*a,", 200) + "]\n", "excessive aliasing"},
		"variables":   {"a: '" + strings.Repeat("${BIG}", 10_000) + "'", "the values of variables have more than 4194304 bytes"},
		"no variable": {"a: '" + strings.Repeat("${NONE}", 40_000) + "'", "NONE is not set"},
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var schema struct {
			A any `koanf:"a"`
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err := Load(file, []string{big}, &schema)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "\n") > maxProblems+1 {
			t.Errorf("%s: %.200v", name, err)
		}
		if grown := (after.Sys - before.Sys) >> 20; grown > 64 {
			t.Errorf("%s takes %d MiB", name, grown)
		}
	}
}

// TestAKeyIsANameAsItIsWritten, and so is a date as a value; a number that would
// be another one is refused.
func TestAKeyIsANameAsItIsWritten(t *testing.T) {
	load := func(text string) (map[string]any, error) {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var into struct {
			A map[string]any `koanf:"a"`
		}
		d, err := Load(file, []string{"OCTAL=010", "NAME=1.10"}, &into)
		if err != nil { // its folder has any number in its name
			return nil, errors.New(strings.ReplaceAll(err.Error(), file, "FILE"))
		}
		err = d.Decode(&into)
		return into.A, err
	}
	got, err := load("a: {010: 1, 0x1F: 3, on: 4, ~: 5, 1e3: 6, 2024-01-02: 2024-01-03, true: 7, \"${NAME}\": 8, '08': 9}")
	if got := fmt.Sprint(got); err != nil || got != "map[010:1 08:9 0x1F:3 1.10:8 1e3:6 2024-01-02:2024-01-03 on:4 true:7 ~:5]" {
		t.Errorf("%s, %v", got, err)
	}
	for _, value := range []string{"010", "-007", "08", "[1, 010]", "${OCTAL}"} {
		if _, err := load("a:\n  b: " + value); err == nil || !strings.Contains(err.Error(), "octal") || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", value, err)
		}
	}
	for _, value := range []string{"0", "'010'", "0.5", "-0", "0x10"} {
		if _, err := load("a:\n  b: " + value); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}
