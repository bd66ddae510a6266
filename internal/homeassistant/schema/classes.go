package schema

import (
	"maps"
	"slices"
)

// sensors are the device classes of sensors that Home Assistant 2025.4 and
// 2026.11 both know, with their units; none is any unit. (components/sensor/const.py,
// DEVICE_CLASS_UNITS)
var sensors = map[string][]string{
	"apparent_power":                   {"VA"},
	"aqi":                              {""},
	"area":                             {"m²", "cm²", "km²", "mm²", "in²", "ft²", "yd²", "mi²", "ac", "ha"},
	"atmospheric_pressure":             {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"},
	"battery":                          {"%"},
	"blood_glucose_concentration":      {"mg/dL", "mmol/L"},
	"carbon_dioxide":                   {"ppm"},
	"carbon_monoxide":                  {"ppm"},
	"conductivity":                     {"S/cm", "mS/cm", "µS/cm"},
	"current":                          {"A", "mA"},
	"data_rate":                        {"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s", "KiB/s", "MiB/s", "GiB/s"},
	"data_size":                        {"bit", "kbit", "Mbit", "Gbit", "B", "kB", "MB", "GB", "TB", "PB", "KiB", "MiB", "GiB", "TiB", "PiB", "EB", "ZB", "YB", "EiB", "ZiB", "YiB"},
	"date":                             {""},
	"distance":                         {"km", "m", "cm", "mm", "mi", "yd", "in", "ft", "nmi"},
	"duration":                         {"d", "h", "min", "s", "ms", "µs"},
	"energy":                           {"J", "kJ", "MJ", "GJ", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal", "mWh"},
	"energy_distance":                  {"kWh/100km", "km/kWh", "mi/kWh"},
	"energy_storage":                   {"J", "kJ", "MJ", "GJ", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal", "mWh"},
	"enum":                             {""},
	"frequency":                        {"Hz", "kHz", "MHz", "GHz"},
	"gas":                              {"m³", "ft³", "CCF"},
	"humidity":                         {"%"},
	"illuminance":                      {"lx"},
	"irradiance":                       {"W/m²", "BTU/(h⋅ft²)"},
	"moisture":                         {"%"},
	"monetary":                         nil,
	"nitrogen_dioxide":                 {"µg/m³"},
	"nitrogen_monoxide":                {"µg/m³"},
	"nitrous_oxide":                    {"µg/m³"},
	"ozone":                            {"µg/m³"},
	"ph":                               {""},
	"pm1":                              {"µg/m³"},
	"pm10":                             {"µg/m³"},
	"pm25":                             {"µg/m³"},
	"power":                            {"W", "kW", "mW", "MW", "GW", "TW"},
	"power_factor":                     {"", "%"},
	"precipitation":                    {"in", "cm", "mm"},
	"precipitation_intensity":          {"in/d", "in/h", "mm/d", "mm/h"},
	"pressure":                         {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"},
	"reactive_power":                   {"var"},
	"signal_strength":                  {"dB", "dBm"},
	"sound_pressure":                   {"dB", "dBA"},
	"speed":                            {"ft/s", "in/d", "in/h", "in/s", "km/h", "kn", "m/s", "mph", "mm/d", "mm/s", "Beaufort", "mm/h"},
	"sulphur_dioxide":                  {"µg/m³"},
	"temperature":                      {"°C", "°F", "K"},
	"timestamp":                        {""},
	"volatile_organic_compounds":       {"µg/m³"},
	"volatile_organic_compounds_parts": {"ppm", "ppb"},
	"voltage":                          {"V", "mV", "µV", "kV", "MV"},
	"volume":                           {"m³", "ft³", "CCF", "L", "mL", "gal", "fl. oz."},
	"volume_flow_rate":                 {"m³/h", "ft³/min", "L/min", "gal/min", "mL/s"},
	"volume_storage":                   {"m³", "ft³", "CCF", "L", "mL", "gal", "fl. oz."},
	"water":                            {"m³", "ft³", "CCF", "L", "gal"},
	"weight":                           {"kg", "g", "mg", "µg", "oz", "lb", "st"},
	"wind_direction":                   {"°"},
	"wind_speed":                       {"Beaufort", "ft/s", "km/h", "kn", "m/s", "mph", "mm/s", "in/s"},
}

// Ways in which numbers add up.
const (
	measurement = "measurement"
	total       = "total"
	increasing  = "total_increasing"
)

// stateClasses are the state classes of sensors by their device class, where
// there are others than measurement; the first is the usual one, and "" none:
// what is in a volume, and what money tells, is not known. (components/sensor/const.py,
// DEVICE_CLASS_STATE_CLASSES)
var stateClasses = map[string][]string{
	"":               {measurement, total, increasing},
	"area":           {measurement, total, increasing},
	"data_size":      {measurement, total, increasing},
	"date":           {""},
	"distance":       {measurement, total, increasing},
	"duration":       {measurement, total, increasing},
	"energy":         {increasing, total},
	"enum":           {""},
	"gas":            {increasing, total},
	"monetary":       {"", total},
	"precipitation":  {measurement, total, increasing},
	"timestamp":      {""},
	"volume":         {"", total, increasing},
	"water":          {increasing, total},
	"weight":         {measurement, total, increasing},
	"wind_direction": {"measurement_angle"},
}

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

// StateClasses are the state classes that a number of a class may have.
func StateClasses(class string) []string {
	all, known := stateClasses[class]
	if !known {
		return []string{measurement}
	}
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "" })
}

// StateClass is the usual one, with which Home Assistant keeps statistics; "" is
// none.
func StateClass(class string) string {
	if all, known := stateClasses[class]; known {
		return all[0]
	}
	return measurement
}

// SensorClasses are the classes of numbers, sorted.
func SensorClasses() []string {
	all := slices.Sorted(maps.Keys(sensors))
	return slices.DeleteFunc(all, func(class string) bool { return slices.Contains(worded, class) })
}

// Units are those of numbers of a class, "" being none at all; nil is any.
func Units(class string) []string { return slices.Clone(sensors[class]) }

// BinaryClasses are the classes of binary sensors, sorted.
func BinaryClasses() []string { return slices.Clone(binaries) }

// Binary reports whether a binary sensor may be of a class.
func Binary(class string) bool { return slices.Contains(binaries, class) }
