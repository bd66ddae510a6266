package lines

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"
)

// columns are what a header names.
type columns struct {
	header string
	names  []string
}

// row makes an object of a row; its keys are the names in the header.
func (r *Reader) row(text, header []byte) ([]byte, string) {
	names := r.columns.Load()
	if names == nil || names.header != string(header) {
		fields, why := r.fields(header)
		if why != "" {
			return nil, "the file's first line names the columns, and " + why
		}
		for i, name := range fields {
			if fields[i] = strings.TrimSpace(name); fields[i] == "" {
				fields[i] = fmt.Sprintf("column%d", i+1)
			}
		}
		names = &columns{string(header), fields}
		r.columns.Store(names)
	}
	fields, why := r.fields(text)
	switch {
	case why != "":
		return nil, why
	case len(fields) > len(names.names):
		return nil, fmt.Sprintf("it has %d columns, and the file's first line names %d; set delimiter if that is wrong", len(fields), len(names.names))
	}
	var o object
	for i, value := range fields {
		o.scalar(names.names[i], strings.TrimSpace(value))
	}
	return o.bytes(), ""
}

// fields takes a row apart.
func (r *Reader) fields(text []byte) (fields []string, why string) {
	if bytes.Count(text, []byte(string(r.c.delimiter))) >= maxColumns {
		return nil, fmt.Sprintf("it has more than %d columns", maxColumns)
	}
	c := csv.NewReader(bytes.NewReader(text))
	c.Comma, c.FieldsPerRecord, c.LazyQuotes = r.c.delimiter, -1, true
	fields, err := c.Read()
	if err != nil {
		return nil, "it is not a row of CSV"
	}
	return fields, ""
}
