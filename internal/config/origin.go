package config

import (
	"cmp"
	"reflect"
)

// This file tells where the value of an option comes from.

// Place tells where the item of a list, or another part of the configuration,
// is written: a file and a line, or, without a line, the flag or the variable
// that sets it. Both are zero if it is written nowhere.
func (d *Document) Place(key string) (file string, line int) {
	for k := key; k != ""; k = parent(k) {
		if origin, ok := d.origins[k]; ok {
			return origin, 0
		}
	}
	at := d.places[key]
	return at.file, at.line
}

// Origin tells where an option's value comes from: a flag, a variable, a place
// in a file, what Fill noted, or "default".
func (d *Document) Origin(key string) string {
	if origin, ok := d.origins[key]; ok {
		return origin
	}
	filled := d.filled[key]
	if at, ok := d.places[key]; ok {
		if filled != "" {
			return at.String() + " and " + filled
		}
		return at.String()
	}
	return cmp.Or(filled, fromDefault)
}

// IsSet reports whether somebody has set an option: a flag, a variable or a file.
func (d *Document) IsSet(key string) bool {
	_, set := d.origins[key]
	_, written := d.places[key]
	return set || written
}

// fromDefault is the origin of what nobody has written.
const fromDefault = "default"

// Fill calls fill, which sets options of a struct below path by what others say,
// and notes origin as where those that it changes come from. It does not see
// what fill changes inside a list or a map.
func (d *Document) Fill(path, origin string, options any, fill func()) {
	v := reflect.ValueOf(options).Elem()
	before := reflect.New(v.Type())
	before.Elem().Set(v)
	fill()
	if reflect.DeepEqual(before.Interface(), options) {
		return // which saves most of the time that 500 sources take
	}
	text := map[string]string{}
	for _, v := range d.Values(path, before.Interface()) {
		text[v.Key] = v.Text
	}
	for _, v := range d.Values(path, options) {
		if v.Text != text[v.Key] {
			d.filled[v.Key] = origin
		}
	}
}
