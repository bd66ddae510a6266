package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBackCode lets go of the pages of the program's own file, its code and
// constants: most of them were needed to start. What is used comes back at once,
// since the system still has the file in its cache, and may now reclaim the rest.
// Nothing is lost: these mappings cannot be written to. Under a debugger, which
// does write to them, they stay.
func giveBackCode() {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !bytes.Contains(status, []byte("\nTracerPid:\t0\n")) {
		return
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var may string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &may); n < 3 || may != "r-xp" && may != "r--p" || !strings.HasSuffix(line, " "+self+"\n") {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // it may say no
	}
}
