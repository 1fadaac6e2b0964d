package pack_test

import "syscall"

func setXattr(name, key string, value []byte) error { return syscall.Setxattr(name, key, value, 0) }

func getXattr(name, key string) []byte {
	buf := make([]byte, 64)
	n, err := syscall.Getxattr(name, key, buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}
