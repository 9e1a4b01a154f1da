package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// ErrForbidden is wrapped by every refusal of the guard: the address must not be connected to.
var ErrForbidden = errors.New("the address is not allowed")

// Guard judges the addresses a client may connect to. It looks at the address the kernel is about to
// connect to, after names were resolved, so that neither spelling nor a name server can lead around it.
// The zero value allows public addresses only.
type Guard struct {
	// AllowPrivate also allows private (RFC 1918, ULA), shared (100.64.0.0/10) and loopback addresses.
	// Link-local and metadata addresses stay refused.
	AllowPrivate bool
	// Allow are ranges that are allowed whatever they are, except Own.
	Allow []netip.Prefix
	// Own are the hub's own listeners, refused always: nothing that is sent out may come in at the hub's
	// admin API. An unspecified address stands for every address of this machine.
	Own []netip.AddrPort
}

// class is what kind of address it is, from harmless to worst.
type class int

const (
	public   class = iota
	private        // allowed by AllowPrivate
	reserved       // allowed only when listed: there is no honest target there
	metadata       // allowed only when listed: cloud credentials live there, and the link's own machines
)

// Judge returns nil when a may be connected to, or an error that wraps ErrForbidden and says what to do.
func (g *Guard) Judge(a netip.AddrPort) error {
	addr := a.Addr().WithZone("").Unmap()
	if !addr.IsValid() {
		return fmt.Errorf("%q is no IP address: %w", a, ErrForbidden)
	}
	if g.own(netip.AddrPortFrom(addr, a.Port())) {
		return fmt.Errorf("%s is this hub's own listener: %w", a, ErrForbidden)
	}
	for _, p := range g.Allow {
		if p.Contains(addr) {
			return nil
		}
	}
	kind, name := classify(addr)
	switch {
	case kind == public, kind == private && g.AllowPrivate:
		return nil
	case kind == private:
		return fmt.Errorf("%s is %s: %w; set allow_private: true, or list its range under allow_addresses, if this is meant", addr, name, ErrForbidden)
	}
	return fmt.Errorf("%s is %s: %w; list it under allow_addresses if this is meant", addr, name, ErrForbidden)
}

// own reports whether a is one of the hub's listeners. a is unmapped.
func (g *Guard) own(a netip.AddrPort) bool {
	for _, o := range g.Own {
		if o.Port() != a.Port() {
			continue
		}
		if o.Addr().Unmap() == a.Addr() || o.Addr().IsUnspecified() && ofThisMachine(a.Addr()) {
			return true
		}
	}
	return false
}

func ofThisMachine(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // not knowing is no licence to connect to ourselves
	}
	for _, i := range addrs {
		if n, ok := i.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
				return true
			}
		}
	}
	return false
}

// block is a range of addresses that is not the public Internet.
type block struct {
	prefix netip.Prefix
	kind   class
	name   string
}

func blocks(kind class, name string, prefixes ...string) []block {
	b := make([]block, len(prefixes))
	for i, p := range prefixes {
		b[i] = block{netip.MustParsePrefix(p), kind, name}
	}
	return b
}

// special lists what is not the public Internet, the narrow before the wide, after the IANA registries of special-purpose addresses
// (https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry). The metadata addresses are
// those in the clouds' own manuals: AWS, Azure (the wire server), Alibaba, Oracle, Google. Never written to.
var special = concat(
	blocks(metadata, "a cloud metadata address",
		"169.254.169.254/32", "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
	blocks(metadata, "a link-local address", "169.254.0.0/16", "fe80::/10"),
	blocks(private, "a loopback address", "127.0.0.0/8", "::1/128"),
	blocks(private, "a private address", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
	blocks(private, "a shared (carrier NAT) address", "100.64.0.0/10"),
	blocks(reserved, "a \"this network\" address", "0.0.0.0/8", "::/128"),
	blocks(reserved, "a protocol assignment", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "5f00::/16", "100::/64", "100:0:0:1::/64"),
	blocks(reserved, "a documentation address", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
	blocks(reserved, "a benchmarking address", "198.18.0.0/15"),
	blocks(reserved, "a multicast address", "224.0.0.0/4", "ff00::/8"),
	blocks(reserved, "a reserved address", "240.0.0.0/4", "fec0::/10"),
)

func concat(parts ...[]block) []block {
	var all []block
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

var (
	globalV6  = netip.MustParsePrefix("2000::/3")
	compatV4  = netip.MustParsePrefix("::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
	teredo    = netip.MustParsePrefix("2001::/32")
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	nat64own  = netip.MustParsePrefix("64:ff9b:1::/48")
)

// classify says what kind of address a is, and the kind's name. a is unmapped and without a zone. An IPv6 address that
// carries an IPv4 address is as bad as what it carries, and tunnels are never better than reserved.
func classify(a netip.Addr) (class, string) {
	for _, b := range special {
		if b.prefix.Contains(a) && !teredo.Contains(a) {
			return b.kind, b.name
		}
	}
	if a.Is4() {
		return public, ""
	}
	b := a.As16()
	switch {
	case nat64.Contains(a): // RFC 6052; the way to IPv4 on networks that have IPv6 only
		return carried("a NAT64 address of", public, [4]byte(b[12:16]))
	case nat64own.Contains(a): // RFC 8215: the operator picks the length, so the last bytes and the /48 layout both count
		return carried("a local NAT64 address of", private, [4]byte(b[12:16]), [4]byte{b[6], b[7], b[9], b[10]})
	case sixToFour.Contains(a): // RFC 3056
		return carried("a 6to4 address of", reserved, [4]byte(b[2:6]))
	case teredo.Contains(a): // RFC 4380: the server, and the client's address inverted
		return carried("a Teredo address of", reserved, [4]byte(b[4:8]), [4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case compatV4.Contains(a): // RFC 4291 2.5.5.1, deprecated
		return carried("an IPv4-compatible address of", reserved, [4]byte(b[12:16]))
	case !globalV6.Contains(a):
		return reserved, "not a global unicast address"
	}
	return public, ""
}

// carried judges the addresses inside an address, and is at least as bad as floor.
func carried(prefix string, floor class, inner ...[4]byte) (class, string) {
	kind, name := floor, prefix+" "+netip.AddrFrom4(inner[0]).String()
	for _, v4 := range inner {
		a := netip.AddrFrom4(v4)
		if k, n := classify(a); k > kind {
			kind, name = k, prefix+" "+a.String()+", "+n
		}
	}
	return kind, name
}

// dialer opens guarded connections.
type dialer struct {
	guard Guard
	net   net.Dialer
}

func newDialer(g Guard, r *net.Resolver) *dialer {
	d := &dialer{guard: g}
	d.net = net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: keepAlive,
		Resolver:  r,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			return d.control(network, address)
		},
	}
	return d
}

// dial refuses a name when any of its addresses is forbidden: a name with one foot inside is not to be trusted with the other. The judgement
// that counts is control's, on the address that is then really connected to; this one makes refusals not depend on which address wins the race.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		addrs, err := d.resolver().LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if err := d.control(network, net.JoinHostPort(a.String(), port)); err != nil {
				return nil, fmt.Errorf("%s: %w", host, err)
			}
		}
	}
	return d.net.DialContext(ctx, network, address)
}

func (d *dialer) resolver() *net.Resolver {
	if d.net.Resolver != nil {
		return d.net.Resolver
	}
	return net.DefaultResolver
}

// control is asked by the net package for every address just before connect(2).
func (d *dialer) control(network, address string) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return fmt.Errorf("network %s: %w", network, ErrForbidden)
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is no IP address and port: %w", address, ErrForbidden)
	}
	return d.guard.Judge(a)
}
