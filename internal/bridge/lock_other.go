//go:build !unix

package bridge

// lockDir does nothing where there are no advisory locks; the taken port keeps
// a second bridge out as a rule.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }
