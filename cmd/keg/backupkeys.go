package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// backupKeys say for whom a backup is encrypted, or how to read it.
type backupKeys struct {
	to             []string
	identityFiles  []string
	passphraseFile string
}

func (k *backupKeys) registerRecipients(c *cobra.Command) {
	c.Flags().StringArrayVar(&k.to, "recipient", nil, "public key of age to encrypt for (age1...), or a file of them")
	c.Flags().StringVar(&k.passphraseFile, "passphrase-file", "", "file with a passphrase to encrypt with; - asks for it")
}

func (k *backupKeys) registerIdentities(c *cobra.Command) {
	c.Flags().StringArrayVar(&k.identityFiles, "identity", nil, "file with a private key of age to decrypt with")
	c.Flags().StringVar(&k.passphraseFile, "passphrase-file", "", "file with the passphrase; - asks for it")
}

// passphrase is "" where none is wanted.
func (k *backupKeys) passphrase(ctx context.Context, a *app, again bool) (string, error) {
	switch k.passphraseFile {
	case "":
		return a.env("KEG_BACKUP_PASSPHRASE"), nil
	case "-":
		p, err := a.askSecret(ctx, "Passphrase of the backup: ")
		if err != nil || !again {
			return p, err
		}
		if second, err := a.askSecret(ctx, "The same again: "); err != nil || second != p {
			return "", errors.Join(err, usageErrorf("the two passphrases are not the same"))
		}
		return p, nil
	}
	data, err := os.ReadFile(k.passphraseFile)
	if err != nil {
		return "", fmt.Errorf("reading passphrase: %w", err)
	}
	p := strings.TrimRight(string(data), "\r\n")
	if p == "" {
		return "", usageErrorf("%s holds no passphrase", k.passphraseFile)
	}
	return p, nil
}

// recipients are whom to encrypt for: as the flags say, or else this operator's own key, which is made
// when it is first wanted.
func (k *backupKeys) recipients(ctx context.Context, a *app) ([]age.Recipient, error) {
	p, err := k.passphrase(ctx, a, true)
	if err != nil {
		return nil, err
	}
	if p != "" {
		if len(k.to) > 0 {
			return nil, usageErrorf("a backup is encrypted for recipients or with a passphrase, not both")
		}
		r, err := age.NewScryptRecipient(p)
		if err != nil {
			return nil, fmt.Errorf("using passphrase: %w", err)
		}
		return []age.Recipient{r}, nil
	}
	var list []age.Recipient
	for _, to := range k.to {
		text := to
		if data, err := os.ReadFile(to); err == nil {
			text = string(data)
		}
		found, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil {
			return nil, usageErrorf("--recipient %q is neither a public key of age nor a file of them: %s", to, err)
		}
		list = append(list, found...)
	}
	if len(list) > 0 {
		return list, nil
	}
	own, err := a.ownKey(true)
	if err != nil {
		return nil, err
	}
	return []age.Recipient{own.Recipient()}, nil
}

// identities are all keys that there are to read a backup with.
func (k *backupKeys) identities(ctx context.Context, a *app) ([]age.Identity, error) {
	var list []age.Identity
	for _, name := range k.identityFiles {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading --identity: %w", err)
		}
		found, err := age.ParseIdentities(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, usageErrorf("--identity %s holds no private key of age: %s", name, err)
		}
		list = append(list, found...)
	}
	p, err := k.passphrase(ctx, a, false)
	if err != nil {
		return nil, err
	}
	if p != "" {
		i, err := age.NewScryptIdentity(p)
		if err != nil {
			return nil, fmt.Errorf("using passphrase: %w", err)
		}
		return append(list, i), nil
	}
	own, err := a.ownKey(false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		list = append(list, own)
	}
	if len(list) == 0 {
		return nil, usageErrorf("there is nothing to decrypt the backup with: give --identity or --passphrase-file")
	}
	return list, nil
}

// ownKey is the operator's own key for backups.
func (a *app) ownKey(create bool) (*age.X25519Identity, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "backup.key")
	data, err := os.ReadFile(name)
	switch {
	case err == nil:
		i, err := age.ParseX25519Identity(strings.TrimSpace(string(data)))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		return i, nil
	case !errors.Is(err, fs.ErrNotExist) || !create:
		return nil, fmt.Errorf("reading the key for backups: %w", err)
	}
	made, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("making a key for backups: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a key for backups: %w", err)
	}
	return made, atomicfile.Write(name, []byte(made.String()+"\n"), 0o600)
}
