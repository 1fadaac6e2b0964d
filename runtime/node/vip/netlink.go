package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// setAddress puts an address on a device for some seconds, or prolongs it: rtnetlink(7). It never is the
// one that the host's own connections come from: it is deprecated from the beginning. For IPv6 duplicates
// are not looked for, since the host before may just have been cut off.
func setAddress(device int, p netip.Prefix, seconds int) error {
	life := make([]byte, 16) // struct ifa_cacheinfo: preferred, valid, and two times of the kernel's
	binary.NativeEndian.PutUint32(life[4:], uint32(seconds))
	flags := make([]byte, 4)
	if p.Addr().Is6() {
		binary.NativeEndian.PutUint32(flags, unix.IFA_F_NODAD)
	}
	return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, device, p,
		attribute(unix.IFA_CACHEINFO, life), attribute(unix.IFA_FLAGS, flags))
}

func removeAddress(device int, p netip.Prefix) error {
	return request(unix.RTM_DELADDR, 0, device, p)
}

// request sends one message about an address and waits for the kernel's answer.
func request(kind, flags uint16, device int, p netip.Prefix, attributes ...[]byte) error {
	family := byte(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0], body[1] = family, byte(p.Bits())
	binary.NativeEndian.PutUint32(body[4:], uint32(device))
	body = append(body, attribute(unix.IFA_LOCAL, p.Addr().AsSlice())...)
	body = append(body, attribute(unix.IFA_ADDRESS, p.Addr().AsSlice())...)
	for _, a := range attributes {
		body = append(body, a...)
	}
	head := make([]byte, unix.SizeofNlMsghdr)
	binary.NativeEndian.PutUint32(head, uint32(len(head)+len(body)))
	binary.NativeEndian.PutUint16(head[4:], kind)
	binary.NativeEndian.PutUint16(head[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)

	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talking to the kernel: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("talking to the kernel: %w", err)
	}
	if err := unix.Sendto(fd, append(head, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("talking to the kernel: %w", err)
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("talking to the kernel: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("talking to the kernel: it answered something else")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// attribute is a struct rtattr with what belongs to it.
func attribute(kind uint16, data []byte) []byte {
	a := make([]byte, unix.SizeofRtAttr, unix.SizeofRtAttr+len(data))
	binary.NativeEndian.PutUint16(a, uint16(unix.SizeofRtAttr+len(data)))
	binary.NativeEndian.PutUint16(a[2:], kind)
	a = append(a, data...)
	for len(a)%4 != 0 {
		a = append(a, 0)
	}
	return a
}

// announceAddress tells the neighbours on a device that the address is here now.
func announceAddress(i net.Interface, addr netip.Addr) error {
	if len(i.HardwareAddr) != 6 {
		return nil // no Ethernet: nobody remembers where it was
	}
	if addr.Is6() {
		return advertise(i, addr)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)),
		Ifindex:  i.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	// RFC 5227: an announcement is a request in which both addresses are the same. Some listen to
	// answers only.
	for operation := byte(1); operation <= 2; operation++ {
		if err := unix.Sendto(fd, arp(operation, i.HardwareAddr, addr.As4()), 0, to); err != nil {
			return err
		}
	}
	return nil
}

// arp is a packet of RFC 826 that says addr is at hardware.
func arp(operation byte, hardware net.HardwareAddr, addr [4]byte) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, operation} // Ethernet, IPv4, and the lengths of their addresses
	p = append(append(p, hardware...), addr[:]...)
	target := []byte{0, 0, 0, 0, 0, 0}
	if operation == 2 {
		target = hardware
	}
	return append(append(p, target...), addr[:]...)
}

// advertise sends an unsolicited neighbour advertisement: RFC 4861 section 7.2.6.
func advertise(i net.Interface, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	all := &unix.SockaddrInet6{ZoneId: uint32(i.Index), Addr: netip.IPv6LinkLocalAllNodes().As16()}
	return unix.Sendto(fd, advertisement(i.HardwareAddr, addr.As16()), 0, all)
}

// advertisement is the packet; the kernel puts the checksum in.
func advertisement(hardware net.HardwareAddr, addr [16]byte) []byte {
	const override = 0x20
	p := append([]byte{136, 0, 0, 0, override, 0, 0, 0}, addr[:]...)
	return append(append(p, 2, 1), hardware...) // the option: target's link-layer address, 8 bytes
}
