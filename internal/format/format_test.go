package format

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write puts a format file into a new folder, unless text is empty.
func write(t *testing.T, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if text != "" {
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func holds(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAFolderIsEnteredOrRefused(t *testing.T) {
	const ours = `{"format":2,"min_reader":2,"written_by":"0.4.0"}` + "\n"
	for name, c := range map[string]struct {
		text, after string
		check       error
	}{
		"new or of before there were formats": {"", ours, nil},
		"older":                               {`{"format":1,"min_reader":1,"written_by":"0.3.0"}`, ours, nil},
		"its own":                             {`{"format":2,"min_reader":2,"written_by":"0.3.5"}`, `{"format":2,"min_reader":2,"written_by":"0.3.5"}`, nil},
		"newer, and written for this one too": {`{"format":3,"min_reader":2,"written_by":"0.5.0"}`, `{"format":3,"min_reader":2,"written_by":"0.5.0"}`, nil},
		"newer":                               {`{"format":3,"min_reader":3,"written_by":"0.5.0"}`, `{"format":3,"min_reader":3,"written_by":"0.5.0"}`, ErrNewer},
		"newer, with more in it":              {`{"format":9,"written_by":"2.0.0","more":[1]}`, `{"format":9,"written_by":"2.0.0","more":[1]}`, ErrNewer},
		"damaged":                             {"\x00\x00\x00", ours, ErrDamaged},
		"without a format":                    {`{"min_reader":1}`, ours, ErrDamaged},
		"far too long":                        {`{"format":1` + strings.Repeat(" ", maxFile) + `}`, ours, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, c.text)
			if _, err := check(dir, 2); !errors.Is(err, c.check) {
				t.Fatalf("check: %v, want %v", err, c.check)
			}
			err := enter(dir, "0.4.0", 2)
			if refused := errors.Is(c.check, ErrNewer); refused != errors.Is(err, ErrNewer) || !refused && err != nil {
				t.Fatalf("enter: %v", err)
			}
			if got := holds(t, dir); got != c.after {
				t.Errorf("the file now holds %s, want %s", got, c.after)
			}
		})
	}
}

func TestTheRefusalNamesTheVersionToInstall(t *testing.T) {
	dir := write(t, `{"format":7,"min_reader":7,"written_by":"0.9.1"}`)
	err := Check(dir)
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Fatalf("the error is %v", err)
	}
	for _, want := range []string{dir, "event2mqtt 0.9.1", "--state-dir"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if err := Check(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}
