package remotetest

import (
	"crypto"
	"encoding/pem"
	"os"
	"testing"

	"golang.org/x/crypto/ssh"
)

// WriteKey writes a private key in OpenSSH's format, encrypted if passphrase is not "".
func WriteKey(t testing.TB, path string, key crypto.PrivateKey, passphrase string) {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "remotetest")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "remotetest", []byte(passphrase))
	}
	if err != nil {
		t.Fatalf("remotetest: %v", err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatalf("remotetest: %v", err)
	}
}
