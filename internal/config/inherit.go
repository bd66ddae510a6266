package config

import (
	"reflect"
	"strings"
)

// Inherit gives the options of a struct that a group does not mention the values
// that they have in another struct of the same type. Both are pointers.
func Inherit(into, from any, written map[string]any) {
	to, of := reflect.ValueOf(into).Elem(), reflect.ValueOf(from).Elem()
	for f := range fields(to.Type()) {
		mentioned := false
		for name := range written {
			mentioned = mentioned || strings.EqualFold(name, f.Tag.Get("koanf"))
		}
		if !mentioned {
			to.FieldByIndex(f.Index).Set(of.FieldByIndex(f.Index))
		}
	}
}
