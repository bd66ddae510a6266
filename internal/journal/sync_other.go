//go:build !linux

package journal

func syncData(f diskFile) error { return f.File.Sync() }
