package schema

import "slices"

// sensors are the device classes of sensors that Home Assistant 2025.4 and
// 2026.11 both know, with their units; none is any unit. (components/sensor/const.py,
// DEVICE_CLASS_UNITS)
var sensors = map[string][]string{
	"aqi":                        {""},
	"apparent_power":             {"VA"},
	"atmospheric_pressure":       {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"},
	"battery":                    {"%"},
	"carbon_dioxide":             {"ppm"},
	"carbon_monoxide":            {"ppm"},
	"current":                    {"A", "mA"},
	"data_rate":                  {"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s", "KiB/s", "MiB/s", "GiB/s"},
	"data_size":                  {"bit", "kbit", "Mbit", "Gbit", "B", "kB", "MB", "GB", "TB", "PB", "KiB", "MiB", "GiB", "TiB", "PiB"},
	"date":                       {""},
	"distance":                   {"km", "m", "cm", "mm", "mi", "yd", "in", "ft"},
	"duration":                   {"d", "h", "min", "s", "ms"},
	"energy":                     {"J", "kJ", "MJ", "GJ", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal"},
	"enum":                       {""},
	"frequency":                  {"Hz", "kHz", "MHz", "GHz"},
	"gas":                        {"m³", "ft³", "CCF"},
	"humidity":                   {"%"},
	"illuminance":                {"lx"},
	"irradiance":                 {"W/m²", "BTU/(h⋅ft²)"},
	"moisture":                   {"%"},
	"monetary":                   nil,
	"nitrogen_dioxide":           {"µg/m³"},
	"ozone":                      {"µg/m³"},
	"ph":                         {""},
	"pm1":                        {"µg/m³"},
	"pm10":                       {"µg/m³"},
	"pm25":                       {"µg/m³"},
	"power":                      {"W", "kW", "mW", "MW", "GW", "TW"},
	"power_factor":               {"", "%"},
	"precipitation":              {"in", "cm", "mm"},
	"precipitation_intensity":    {"in/d", "in/h", "mm/d", "mm/h"},
	"pressure":                   {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"},
	"signal_strength":            {"dB", "dBm"},
	"sound_pressure":             {"dB", "dBA"},
	"speed":                      {"ft/s", "in/d", "in/h", "in/s", "km/h", "kn", "m/s", "mph", "mm/d", "mm/s"},
	"temperature":                {"°C", "°F", "K"},
	"timestamp":                  {""},
	"volatile_organic_compounds": {"µg/m³"},
	"voltage":                    {"V", "mV", "µV", "kV", "MV"},
	"volume":                     {"m³", "ft³", "CCF", "L", "mL", "gal", "fl. oz."},
	"volume_flow_rate":           {"m³/h", "ft³/min", "L/min", "gal/min", "mL/s"},
	"water":                      {"m³", "ft³", "CCF", "L", "gal"},
	"weight":                     {"kg", "g", "mg", "µg", "oz", "lb", "st"},
	"wind_speed":                 {"Beaufort", "ft/s", "km/h", "kn", "m/s", "mph"},
}

// totals are the classes of sensors whose values only add up, and are no
// measurements.
var totals = []string{"energy", "gas", "water", "monetary", "volume"}

// worded are the classes of sensors whose values are no numbers.
var worded = []string{"date", "enum", "timestamp"}

// binaries are the device classes of binary sensors.
var binaries = []string{
	"battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door", "garage_door", "gas", "heat", "light", "lock", "moisture",
	"motion", "moving", "occupancy", "opening", "plug", "power", "presence", "problem", "running", "safety", "smoke", "sound", "tamper", "update",
	"vibration", "window",
}

// buttons and events are those of buttons and of event entities.
var (
	buttons = []string{"identify", "restart", "update"}
	events  = []string{"button", "doorbell", "motion"}
)

// Sensor reports whether a number with this unit may be of a class.
func Sensor(class, unit string) bool {
	units, known := sensors[class]
	return known && !slices.Contains(worded, class) && (units == nil || slices.Contains(units, unit))
}

// meters are the totals that count up, and may begin again at 0.
var meters = []string{"energy", "gas", "water"}

// Statistics is the state class of numbers of a class, by which Home Assistant
// keeps statistics of them; "" is none, where it depends on what is counted.
// (components/sensor/const.py, DEVICE_CLASS_STATE_CLASSES)
func Statistics(class string) string {
	switch {
	case slices.Contains(meters, class):
		return "total_increasing"
	case slices.Contains(totals, class):
		return ""
	}
	return "measurement"
}

// Binaries are all classes of binary sensors.
func Binaries() []string { return slices.Clone(binaries) }

// Numbers are all classes of numbers.
func Numbers() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for class := range sensors {
			if !slices.Contains(worded, class) && !yield(class) {
				return
			}
		}
	})
}

// Units are those of a class of numbers; "" is no unit, and none is any.
func Units(class string) []string { return slices.Clone(sensors[class]) }

// Binary reports whether a binary sensor may be of a class.
func Binary(class string) bool { return slices.Contains(binaries, class) }
