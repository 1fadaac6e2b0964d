//go:build !linux

package imagestore

import "os"

// startWriteback does nothing: only Linux has the call.
func startWriteback(*os.File, int64, int64) {}
