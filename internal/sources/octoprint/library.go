package octoprint

import "github.com/tidwall/gjson"

// This file reads what OctoPrint knows of the last prints of its files.

// Bounds of a library; what is beyond them is skipped. A list of files has at
// most 1 MB.
const (
	maxLibrary = 20_000
	maxDepth   = 64 // of folders
)

// printed is the last print of a file.
type printed struct {
	file    gjson.Result
	ended   float64 // by OctoPrint's clock, seconds since 1970
	success bool
}

// readLibrary are the files of a list that were printed, in all its folders, and
// not after a time.
func readLibrary(list []byte, latest float64) []printed {
	all, seen := []printed{}, 0
	var walk func(files gjson.Result, depth int)
	walk = func(files gjson.Result, depth int) {
		if !files.IsArray() {
			return
		}
		files.ForEach(func(_, f gjson.Result) bool {
			if seen++; seen > maxLibrary {
				return false
			}
			var prints, children gjson.Result
			f.ForEach(func(key, value gjson.Result) bool { // once: what is below may be long
				switch key.Str {
				case "prints":
					prints = value
				case "children":
					children = value
				}
				return true
			})
			if last := prints.Get("last"); last.Get("date").Num > 0 && last.Get("date").Num <= latest {
				all = append(all, printed{f, last.Get("date").Num, last.Get("success").Bool()})
			}
			if depth < maxDepth {
				walk(children, depth+1)
			}
			return true
		})
	}
	walk(gjson.GetBytes(list, "files"), 1)
	return all
}

// first is the file whose last print ended first after a time and not after
// another, the way that a marking says; nil is none.
func first(library []printed, after, until float64, kind string) *job {
	best := -1
	for i, p := range library {
		if p.ended > after && p.ended <= until && (kind != "done" || p.success) && (kind != "cancel" || !p.success) {
			best, until = i, p.ended
		}
	}
	if best < 0 {
		return nil
	}
	return jobOf([]byte(library[best].file.Raw), 0)
}
