package tail

import (
	"io/fs"
	"strings"
	"testing"
)

// TestAdviceNeverMakesRootOfTheProgram: who may read what group root may, may
// read far too much.
func TestAdviceNeverMakesRootOfTheProgram(t *testing.T) {
	const join, change = "to group ", "chgrp GROUP"
	for _, c := range []struct {
		group      string
		gid        uint32
		mode, need fs.FileMode
		want       string
	}{
		{"adm", 4, 0o640, 0o040, join + "adm (SupplementaryGroups=adm"},
		{"adm", 4, fs.ModeDir | 0o750, 0o010, join + "adm (SupplementaryGroups=adm"},
		{"adm", 4, 0o600, 0o040, "let a group read it (chgrp GROUP and chmod g+r)"},
		{"root", 0, 0o640, 0o040, "let another group read it (chgrp GROUP and chmod g+r)"},
		{"wheel", 0, 0o600, 0o040, change},
		{"root", 0, fs.ModeDir | 0o750, 0o010, "let another group read it (chgrp GROUP and chmod g+rx)"},
		{"shadow", 42, 0o640, 0o040, "another group"},
		{"docker", 999, 0o660, 0o040, "another group"},
	} {
		if got := remedy(c.group, c.gid, c.mode, c.need); !strings.Contains(got, c.want) || strings.Contains(got, join) == strings.Contains(got, change) {
			t.Errorf("%s %v: %s", c.group, c.mode, got)
		}
	}
}
