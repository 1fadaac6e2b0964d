package vip

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// address is the address on the network devices of this host.
type address struct {
	prefix netip.Prefix
	device string // that was asked for, "" for whichever has the subnet
	mark   string // the file that says what is held
	on     string // the device that has the address, as far as is known
	logf   func(format string, args ...any)
}

var _ network = (*address)(nil)

// held is what the file says.
type held struct {
	Address   netip.Prefix `json:"address"`
	Interface string       `json:"interface"`
}

func (a *address) check() error {
	i, err := a.choose()
	if err != nil {
		return err
	}
	if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning == 0 {
		return fmt.Errorf("the network device %s has no link", i.Name)
	}
	if a.on == "" {
		return a.foreign()
	}
	return nil
}

// choose is the device for the address.
func (a *address) choose() (net.Interface, error) {
	if a.device != "" {
		i, err := net.InterfaceByName(a.device)
		if err != nil {
			return net.Interface{}, fmt.Errorf("looking at network device %s: %w", a.device, err)
		}
		return *i, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return net.Interface{}, fmt.Errorf("listing network devices: %w", err)
	}
	best, bits := net.Interface{}, -1
	for _, i := range all {
		for _, p := range prefixes(i) {
			if i.Flags&net.FlagLoopback == 0 && p.Addr() != a.prefix.Addr() && p.Contains(a.prefix.Addr()) && p.Bits() > bits {
				best, bits = i, p.Bits()
			}
		}
	}
	if bits < 0 {
		return best, fmt.Errorf("no network device of this host has a subnet with %s in it", a.prefix.Addr())
	}
	return best, nil
}

func prefixes(i net.Interface) []netip.Prefix {
	addrs, err := i.Addrs()
	if err != nil {
		return nil // it went while we looked
	}
	var all []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// foreign is an error if the host has the address though keg-node did not put it there.
func (a *address) foreign() error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("listing network devices: %w", err)
	}
	for _, i := range all {
		for _, p := range prefixes(i) {
			if p.Addr() == a.prefix.Addr() {
				return fmt.Errorf("%s is an address of this host, on %s: the virtual address must be a free one", p.Addr(), i.Name)
			}
		}
	}
	return nil
}

func (a *address) hold(until time.Time, announce bool) error {
	i, err := a.choose()
	if err != nil {
		return err
	}
	if a.on != i.Name {
		if err := a.drop(); err != nil {
			return err
		}
		if err := a.marked(i.Name); err != nil {
			return err
		}
		a.on = i.Name
	}
	seconds := int(time.Until(until) / time.Second)
	if seconds < 1 {
		return errors.New("there is no time left to hold the address in")
	}
	if err := setAddress(i.Index, a.prefix, seconds); err != nil {
		return fmt.Errorf("putting %s on %s: %w", a.prefix, i.Name, err)
	}
	if announce {
		// Neighbours that hear nothing find out by asking.
		if err := announceAddress(i, a.prefix.Addr()); err != nil {
			a.logf("announcing %s on %s: %v", a.prefix.Addr(), i.Name, err)
		}
	}
	return nil
}

// marked writes down what will be held, before it is.
func (a *address) marked(device string) error {
	data, err := json.Marshal(held{Address: a.prefix, Interface: device})
	if err != nil {
		return fmt.Errorf("noting which address is held: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(a.mark), 0o700); err != nil {
		return fmt.Errorf("noting which address is held: %w", err)
	}
	return atomicfile.Write(a.mark, data, 0o600)
}

func (a *address) drop() error {
	if a.on == "" {
		return nil
	}
	i, err := net.InterfaceByName(a.on)
	if err == nil {
		err = removeAddress(i.Index, a.prefix)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("taking %s off %s: %w", a.prefix, a.on, err)
		}
	} // else the device is gone, with its addresses
	if err := os.Remove(a.mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("noting that no address is held: %w", err)
	}
	a.on = ""
	return nil
}
