package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// This file checks what the tags of an options struct say of each value by
// itself; see describe.go. What options have to do with each other, and with
// the world, their components check.

// checkGroup tells which values of a struct its tags do not allow, as
// KeyErrors. It panics where a tag does not fit its field: that is a bug, which
// every test finds.
func checkGroup(path string, v reflect.Value, options []Option) (errs []error) {
	for i := range options {
		o := &options[i]
		field, key := v.FieldByIndex(o.index), join(path, o.Name)
		switch {
		case (o.kind.Kind() == reflect.Slice || o.kind.Kind() == reflect.Map) && field.Len() > maxList:
			errs = append(errs, Errorf(key, "there are %d items; at most %d are allowed", field.Len(), maxList))
		case o.List:
			for i := range field.Len() {
				errs = append(errs, checkGroup(fmt.Sprintf("%s[%d]", key, i), field.Index(i), o.Fields)...)
			}
		case o.Fields != nil:
			errs = append(errs, checkGroup(key, field, o.Fields)...)
		default:
			if err := o.check(field); err != nil {
				errs = append(errs, &KeyError{Key: key, Err: err})
			}
		}
	}
	return errs
}

// check checks the value of an option.
func (o *Option) check(v reflect.Value) error {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	empty := (v.Kind() == reflect.String || v.Kind() == reflect.Slice) && v.Len() == 0
	text := ""
	if o.Off != "" || o.OneOf != nil || o.Format != "" {
		text = show(v)
	}
	switch {
	case o.Off != "" && text == o.Off:
		return nil
	case empty && o.Required != "":
		text := "is needed: " + o.Required
		if o.Example != "" {
			text += "; write for example " + o.Example
		}
		return errors.New(text)
	case empty && o.Default == "":
		return nil // not configured
	case o.OneOf != nil && !slices.Contains(o.OneOf, text):
		if v.Kind() == reflect.String {
			text = strconv.Quote(text)
		}
		if len(o.OneOf) == 1 {
			return fmt.Errorf("%s is not known; there is %s", text, o.OneOf[0])
		}
		all := strings.Join(o.OneOf, ", ")
		if near := Near(show(v), o.OneOf...); strings.ContainsFunc(near, unicode.IsLetter) { // a number that is near is no guess
			all += "; did you mean " + near + "?"
		}
		return fmt.Errorf("%s is not one of %s", text, all)
	case o.Format == formatAddress:
		return o.checkAddress(text)
	default:
		return o.checkBounds(v)
	}
}

func (o *Option) checkBounds(v reflect.Value) error {
	below := o.Min != "" && compare(v, o.Min) < 0
	above := o.Max != "" && compare(v, o.Max) > 0
	switch {
	case !below && !above:
		return nil
	case o.Off != "":
		return fmt.Errorf("%s is neither %s, which is off, nor between %s and %s", show(v), o.Off, o.Min, o.Max)
	case o.Min != "" && o.Max != "":
		return fmt.Errorf("%s is not between %s and %s", show(v), o.Min, o.Max)
	case below:
		return fmt.Errorf("%s is less than %s", show(v), o.Min)
	}
	return fmt.Errorf("%s is more than %s", show(v), o.Max)
}

// compare compares a number with one that is written as in a file.
func compare(v reflect.Value, text string) int {
	bound := reflect.New(v.Type()).Elem()
	if err := setText(bound, text); err != nil {
		panic(fmt.Sprintf("bound %q of a %s: %v", text, v.Type(), err))
	}
	if v.CanFloat() {
		return cmp.Compare(v.Float(), bound.Float())
	}
	return cmp.Compare(v.Int(), bound.Int())
}

// checkAddress checks what is to be listened on: a host, which may be left out,
// and a port.
func (o *Option) checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		like := cmp.Or(o.Default, o.Example)
		everywhere := "or " + like[strings.LastIndexByte(like, ':'):] + " for all interfaces"
		if o.Off != "" {
			everywhere += ", or " + o.Off
		}
		return fmt.Errorf("%q is not an address; write for example %s, %s", address, like, everywhere)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q is not a port; there are 1 to 65535", port)
	}
	return nil
}
