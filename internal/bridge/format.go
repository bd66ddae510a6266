package bridge

import (
	"errors"

	"event2mqtt/internal/format"
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

// checkParts does the same for what parts keep there: they read it later than
// the journal is opened, which is then changed already.
func (b *Bridge) checkParts() error {
	plan := b.opt.Plan
	for _, o := range plan.sinks {
		if k, ok := o.(keeper); ok {
			if err := k.CheckState(b.stateDir); err != nil {
				return err
			}
		}
	}
	if len(plan.MQTT.URL) > 0 {
		return nil
	}
	return plan.Broker.CheckState(b.stateDir)
}

// enterFormat notes how the state folder is written from now on. On a full disk
// that may fail; what is kept in the folder works all the same.
func (b *Bridge) enterFormat() error {
	err := format.Enter(b.stateDir, b.opt.Plan.Version)
	if errors.Is(err, format.ErrNewer) {
		return err
	}
	if err != nil {
		b.log.Warn().Err(err).Msg("the format of the state folder could not be noted; this is tried again at the next start")
	}
	return nil
}
