package config

import "reflect"

// Changed returns the keys of the options that differ between two structs of one
// type, below path, in their order: of groups those inside, of lists the list.
func Changed(path string, before, after any) []string {
	return changed(path, reflect.Indirect(reflect.ValueOf(before)), reflect.Indirect(reflect.ValueOf(after)), Describe(before))
}

func changed(path string, before, after reflect.Value, options []Option) (keys []string) {
	for i := range options {
		o := &options[i]
		a, b, key := before.FieldByIndex(o.index), after.FieldByIndex(o.index), join(path, o.Name)
		switch {
		case o.Fields != nil && !o.List:
			keys = append(keys, changed(key, a, b, o.Fields)...)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
