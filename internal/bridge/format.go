package bridge

import (
	"errors"
	"io/fs"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/format"
	"event2mqtt/internal/journal"
)

// This file keeps the program out of a state folder that a newer version wrote.

// checkFormat returns an error if a newer version wrote the state folder. It
// comes before anything is changed there.
func (b *Bridge) checkFormat() error {
	if err := format.Check(b.stateDir); errors.Is(err, format.ErrNewer) {
		return err
	} // else it is Enter's to tell
	return nil
}

// checkStore does the same for the broker's store, if that is to be used: it is
// opened later than the journal, which is then changed already.
func (b *Bridge) checkStore() error {
	plan := b.opt.Plan
	if len(plan.MQTT.URL) > 0 || !plan.Broker.Persistence {
		return nil
	}
	err := broker.CheckFolder(journal.DirFS(bundled.Folder(b.stateDir)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
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
