package device_test

import (
	"testing"

	"event2mqtt/internal/device"
)

// TestNamesAreSpelledInKeys as Home Assistant spells them in ids.
func TestNamesAreSpelledInKeys(t *testing.T) {
	for name, want := range map[string]string{
		"Door": "door", "Tür": "tur", "Tu\u0308r": "tur", "Straße 1": "strasse_1", "a - b": "a_b", "  Ångström, č/ž ": "angstrom_c_z", "Łódź": "lodz", "温度": "", "温度 2": "2", "_x_": "x",
	} {
		if got, _ := device.Slug(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}
