package bridge

import (
	"cmp"
	"errors"
	"path/filepath"

	"event2mqtt/internal/format"
	"event2mqtt/internal/journal"
)

// This file keeps the program out of a state folder that a newer version wrote.

// CheckFolder returns format.ErrNewer if a newer version wrote a state folder,
// which this one must then neither use nor change. A folder that is not there,
// or that tells nothing, is fine. It changes nothing.
func CheckFolder(dir string) error {
	if err := format.Check(dir); errors.Is(err, format.ErrNewer) {
		return err
	} // else it is Enter's to tell
	return nil
}

// checkFolder does the same for all that the plan uses of the folder: the
// journal knows by its records, too.
func (p *Plan) checkFolder(dir string) error {
	if err := CheckFolder(dir); err != nil {
		return err
	}
	err := journal.Check(journal.DirFS(p.journalIn(dir)), nil)
	if errors.Is(err, journal.ErrNewer) {
		return err
	}
	return p.checkParts(dir)
}

// journalIn is the folder of the journal.
func (p *Plan) journalIn(stateDir string) string {
	return cmp.Or(p.Journal.Path, filepath.Join(stateDir, "journal"))
}

// checkParts checks what parts keep in the state folder: they read it later than
// the journal is opened, which is then changed already.
func (p *Plan) checkParts(stateDir string) error {
	for _, o := range p.sinks {
		if k, ok := o.(keeper); ok {
			if err := k.CheckState(stateDir); err != nil {
				return err
			}
		}
	}
	if len(p.MQTT.URL) > 0 {
		return nil
	}
	return p.Broker.CheckState(stateDir)
}

// enterFormat notes how the state folder is written from now on. On a full disk
// that may fail; what is kept in the folder works all the same.
func (b *Bridge) enterFormat() error {
	damaged := format.Check(b.stateDir)
	err := format.Enter(b.stateDir, b.opt.Plan.Version)
	if errors.Is(err, format.ErrNewer) {
		return err
	}
	if err != nil {
		b.log.Warn().Err(err).Msg("the format of the state folder could not be noted; this is tried again at the next start")
	} else if errors.Is(damaged, format.ErrDamaged) {
		b.log.Warn().AnErr("was", damaged).Msg("the file that tells the format of the state folder was damaged, and is written anew; what else is in the folder was not written by a newer version, as far as that can be seen")
	}
	return nil
}
