package metrics

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// addSystem adds what Linux tells; what it does not is left out.
func (p *Page) addSystem() {
	if text, err := os.ReadFile("/proc/self/statm"); err == nil { // proc_pid_statm(5): pages
		if fields := bytes.Fields(text); len(fields) > 1 {
			if pages, err := strconv.ParseUint(string(fields[1]), 10, 63); err == nil {
				p.Add(ResidentBytes, float64(pages)*float64(os.Getpagesize()))
			}
		}
	}
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		if names, err := dir.Readdirnames(-1); err == nil {
			p.Add(OpenFiles, float64(len(names)-1)) // but for the one that reads them
		}
		_ = dir.Close() // it was read only
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		p.Add(MaxFiles, float64(limit.Cur))
	}
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) == nil {
		p.Add(CPUSeconds, float64(used.Utime.Nano()+used.Stime.Nano())/1e9)
	}
}
