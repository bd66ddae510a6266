package rules_test

import (
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/rules"
)

// classes are all events of OctoPrint 1.11.8 and 2.0.0rc7, by class: those of
// octoprint/events.py, of its bundled plugins, and PausedForUser, which its MQTT
// plugin made of a line of the printer's.
var classes = map[string]string{
	"@server": "Startup Shutdown ClientOpened ClientClosed ClientAuthed ClientDeauthed ConnectivityChanged ConnectionsAutorefreshed UserLoggedIn UserLoggedOut",
	"@comm":   "Connecting Connected Disconnecting Disconnected Error PrinterStateChanged PrinterReset PrinterControlsChanged FirmwareData",
	"@files": "Upload FileAdded FileRemoved FileMoved FolderAdded FolderRemoved FolderMoved UpdatedFiles MetadataAnalysisStarted MetadataAnalysisFinished MetadataStatisticsUpdated " +
		"FileSelected FileDeselected TransferStarted TransferDone TransferFailed",
	"@printjob": "PrintStarted PrintFailed PrintDone PrintCancelling PrintCancelled PrintPaused PrintResumed PausedForUser ChartMarked",
	"@gcode": "PowerOn PowerOff Home Dwelling Waiting Cooling Alert Conveyor Eject EStop FilamentChange ToolChange CommandSuppressed InvalidToolReported RegisteredMessageReceived " +
		"GcodeScriptBeforePrintStartedRunning GcodeScriptAfterPrintDoneFinished",
	"@position":  "ZChange PositionUpdate",
	"@timelapse": "CaptureStart CaptureDone CaptureFailed PostRollStart PostRollEnd MovieRendering MovieDone MovieFailed",
	"@slicing":   "SlicingStarted SlicingDone SlicingCancelled SlicingFailed SlicingProfileAdded SlicingProfileModified SlicingProfileDeleted",
	"@settings":  "SettingsUpdated PrinterProfileAdded PrinterProfileModified PrinterProfileDeleted",
	"@plugin":    "plugin_pluginmanager_install_plugin plugin_softwareupdate_update_succeeded plugin_backup_backup_created plugin_achievements_achievement_unlocked",
}

// TestTheClassesCoverEveryEventOfOctoPrint: each is in one, and in no other.
func TestTheClassesCoverEveryEventOfOctoPrint(t *testing.T) {
	for class := range classes {
		s := set(t, rules.Config{Match: []string{class}, Drop: true})
		for other, names := range classes {
			for name := range strings.FieldsSeq(names) {
				if dropped := apply(s, time.Time{}, name, `{}`) == "dropped"; dropped != (class == other) {
					t.Errorf("%s matches %s: %v", class, name, dropped)
				}
			}
		}
	}
}
