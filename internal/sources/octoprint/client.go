package octoprint

import "event2mqtt/internal/sources/octoprint/api"

// Client makes what asks OctoPrint as the options say, for questions that are
// not those of a source: the key need not be set. The error is that of Check.
func (o *Options) Client() (*api.Client, error) {
	s, err := o.settings()
	if err != nil {
		return nil, err
	}
	return api.New(s.client), nil
}
