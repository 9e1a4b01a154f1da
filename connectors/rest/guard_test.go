package rest_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/rest"
)

// forbidden are spellings of addresses that nothing may be sent to unasked. %s is the port.
var forbidden = []string{
	// loopback, plainly and in disguise
	"127.0.0.1:%s", "127.1.2.3:%s", "127.255.255.254:%s", "[::1]:%s", "[0:0:0:0:0:0:0:1]:%s",
	"2130706433:%s", "0x7f000001:%s", "0x7f.0x0.0x0.0x1:%s", "0177.0.0.1:%s", "017700000001:%s", "127.1:%s", "127.0.1:%s", "0:%s",
	"127.0.0.1.:%s", "127.000.000.001:%s", "0x7F.1:%s", "1.2.3.4.5:%s",
	"[::ffff:127.0.0.1]:%s", "[::ffff:7f00:1]:%s", "[0:0:0:0:0:ffff:127.0.0.1]:%s", "[::127.0.0.1]:%s", "[::7f00:1]:%s",
	"[::ffff:0:127.0.0.1]:%s",
	"[2002:7f00:1::]:%s", "[2002:7f00:0001::1]:%s", "[64:ff9b::127.0.0.1]:%s", "[64:ff9b::7f00:1]:%s",
	"[64:ff9b:1::127.0.0.1]:%s", "[64:ff9b:1:7f00:0:100::]:%s", "[2001:0:7f00:1::]:%s", "[2001:0:808:808:0:0:80ff:fffe]:%s",
	// names that stand for it
	"localhost:%s", "localhost.:%s", "LOCALHOST:%s", "ip6-localhost:%s", "inside.test:%s", "inside.test.:%s", "mixed.test:%s", "mapped.test:%s", "six.test:%s",
	// userinfo
	"user@127.0.0.1:%s", "example.com@127.0.0.1:%s", "user:password@localhost:%s", "example.com%%40@127.0.0.1:%s",
	// this network, private, shared, link-local, metadata
	"0.0.0.0:%s", "0.1.2.3:%s", "[::]:%s", "10.0.0.1:%s", "172.16.0.1:%s", "172.31.255.254:%s", "192.168.1.1:%s", "100.64.0.1:%s", "100.127.255.254:%s",
	"169.254.169.254:%s", "169.254.170.2:%s", "[::ffff:169.254.169.254]:%s", "[64:ff9b::169.254.169.254]:%s", "[2002:a9fe:a9fe::]:%s", "[fd00:ec2::254]:%s",
	"[fe80::1]:%s", "[fe80::1%%25lo]:%s", "168.63.129.16:%s", "100.100.100.200:%s", "metadata.test:%s",
	// unique local, site local, multicast, reserved, documentation, benchmarking
	"[fc00::1]:%s", "[fd12:3456::1]:%s", "[fec0::1]:%s", "[ff02::1]:%s", "224.0.0.1:%s", "239.255.255.250:%s", "240.0.0.1:%s", "255.255.255.255:%s",
	"192.0.0.1:%s", "192.0.2.1:%s", "198.51.100.1:%s", "203.0.113.1:%s", "198.18.0.1:%s", "198.19.255.254:%s", "[2001:db8::1]:%s", "[3fff::1]:%s",
	"[100::1]:%s", "[5f00::1]:%s", "[4000::1]:%s", "192.88.99.1:%s",
}

func insideNames() *net.Resolver {
	return names(func(name string, _ int64) []string {
		switch strings.ToLower(name) {
		case "inside.test", "127.1", "2130706433":
			return []string{"127.0.0.1"}
		case "mixed.test":
			return []string{"127.0.0.2", "::1"} // one that is allowed in these tests, one that is not
		case "mapped.test":
			return []string{"64:ff9b::7f00:1"}
		case "six.test":
			return []string{"::1"}
		case "metadata.test":
			return []string{"169.254.169.254"}
		}
		return nil
	})
}

func TestForbiddenAddressesAreNeverConnectedTo(t *testing.T) {
	t.Parallel()
	v4 := listen(t, "127.0.0.1:0")
	v6 := listen(t, "[::1]:"+v4.port())
	good := listen(t, "127.0.0.2:"+v4.port())
	proxy := listen(t, "127.0.0.3:0")
	kinds := map[string]func(t *testing.T, c func(rest.Settings) *rest.Client, u *url.URL) error{
		"delivery": func(t *testing.T, c func(rest.Settings) *rest.Client, u *url.URL) error {
			e, err := rest.NewEndpoint("POST", u)
			if err != nil {
				return err
			}
			_, err = c(rest.Settings{AllowAddresses: []string{"127.0.0.2"}}).Do(t.Context(), rest.Request{Endpoint: e})
			return err
		},
		"check": func(t *testing.T, c func(rest.Settings) *rest.Client, u *url.URL) error {
			e, err := rest.NewEndpoint("POST", u)
			if err != nil {
				return err
			}
			return c(rest.Settings{AllowAddresses: []string{"127.0.0.2"}}).Reach(t.Context(), e)
		},
		"token": func(t *testing.T, c func(rest.Settings) *rest.Client, u *url.URL) error {
			u.Scheme = "https"
			s := rest.Settings{AllowAddresses: []string{"127.0.0.2"}, Auth: &rest.Auth{
				Scheme: "oauth2", TokenURL: u.String(), ClientID: "id", ClientSecret: config.NewSecret("planted-client-secret"),
			}}
			if found := problems(s); len(found) > 0 {
				return errors.New(strings.Join(found, ";"))
			}
			_, err := c(s).Do(t.Context(), rest.Request{Endpoint: to(t, "POST", "http://127.0.0.2:1/")})
			return err
		},
		"delivery over TLS": func(t *testing.T, c func(rest.Settings) *rest.Client, u *url.URL) error {
			u.Scheme = "https"
			e, err := rest.NewEndpoint("POST", u)
			if err != nil {
				return err
			}
			_, err = c(rest.Settings{AllowAddresses: []string{"127.0.0.2"}}).Do(t.Context(), rest.Request{Endpoint: e})
			return err
		},
		"delivery by a proxy": func(t *testing.T, c func(rest.Settings) *rest.Client, u *url.URL) error {
			e, err := rest.NewEndpoint("POST", u)
			if err != nil {
				return err
			}
			_, err = c(rest.Settings{AllowAddresses: []string{"127.0.0.2"}, Proxy: config.NewSecret("http://" + proxy.Addr().String())}).Do(t.Context(), rest.Request{Endpoint: e})
			if _, name := netip.ParseAddr(u.Hostname()); name != nil && err != nil && proxy.seen.Swap(0) > 0 {
				// What a name stands for is the proxy's to judge; this one hangs up.
				return fmt.Errorf("%w: left to the proxy: %w", rest.ErrForbidden, err)
			}
			return err
		},
	}
	tried := 0
	for kind, use := range kinds {
		for _, spelling := range forbidden {
			u, err := url.Parse("http://" + strings.Replace(strings.ReplaceAll(spelling, "%%", "%"), "%s", v4.port(), 1) + "/")
			if err != nil {
				continue // what cannot be parsed is refused when settings are read
			}
			tried++
			err = use(t, func(s rest.Settings) *rest.Client {
				return client(t, s, rest.WithResolver(rest.Options{}, insideNames()))
			}, u)
			if err == nil {
				t.Errorf("%s to %s went through", kind, spelling)
				continue
			}
			if dns, ok := errors.AsType[*net.DNSError](err); !errors.Is(err, rest.ErrForbidden) && (!ok || !dns.IsNotFound) &&
				!strings.Contains(err.Error(), "ends in a number") && !strings.Contains(err.Error(), "user name") && !strings.Contains(err.Error(), "interface") {
				t.Errorf("%s to %s: the error does not tell: %v", kind, spelling, err)
			}
		}
	}
	if tried < 5*60 {
		t.Errorf("only %d tries", tried)
	}
	if n := v4.seen.Load() + v6.seen.Load(); n != 0 {
		t.Errorf("%d connections were made to forbidden addresses", n)
	}
	if n := good.seen.Load(); n != 0 {
		t.Errorf("%d connections to the allowed address of a name that has a forbidden one too", n)
	}
	c := client(t, rest.Settings{AllowPrivate: true}, rest.Options{})
	if err := c.Reach(t.Context(), to(t, "POST", "http://127.0.0.1:"+v4.port())); err != nil {
		t.Errorf("allow_private does not allow loopback, so the test above proves nothing: %v", err)
	}
}

func TestRebindingNamesDoNotLeadInside(t *testing.T) {
	t.Parallel()
	inside := listen(t, "127.0.0.1:0")
	outside := listen(t, "127.0.0.2:"+inside.port())
	// The name is innocent when it is first asked for (A and AAAA), and stands for the inside from then on.
	for range 1000 {
		r := names(func(_ string, n int64) []string {
			if n <= 2 {
				return []string{"127.0.0.2"}
			}
			return []string{"127.0.0.1"}
		})
		c := client(t, rest.Settings{AllowAddresses: []string{"127.0.0.2"}}, rest.WithResolver(rest.Options{}, r))
		_, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", "http://rebind.test:"+inside.port()+"/")})
		if !errors.Is(err, rest.ErrForbidden) {
			t.Fatalf("got %v", err)
		}
	}
	if n := inside.seen.Load() + outside.seen.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestGuardJudges(t *testing.T) {
	t.Parallel()
	own := []netip.AddrPort{netip.MustParseAddrPort("[::]:8081"), netip.MustParseAddrPort("192.168.7.7:9000")}
	list := []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("198.18.0.0/15")}
	for _, tt := range []struct {
		guard rest.Guard
		addr  string
		ok    bool
	}{
		{rest.Guard{}, "8.8.8.8:443", true},
		{rest.Guard{}, "[2606:4700::1111]:443", true},
		{rest.Guard{}, "[64:ff9b::8.8.8.8]:443", true}, // how networks without IPv4 reach it
		{rest.Guard{}, "[64:ff9b:1::8.8.8.8]:443", false},
		{rest.Guard{}, "[2002:808:808::1]:443", false}, // 6to4 is dead, whatever it carries
		{rest.Guard{}, "[2001:0:808:808:0:0:f7f7:f7f7]:443", false},
		{rest.Guard{}, "100.63.255.255:80", true},
		{rest.Guard{}, "100.128.0.0:80", true},
		{rest.Guard{}, "172.32.0.1:80", true},
		{rest.Guard{}, "198.20.0.1:80", true},
		{rest.Guard{}, "126.255.255.255:80", true},
		{rest.Guard{AllowPrivate: true}, "127.0.0.1:80", true},
		{rest.Guard{AllowPrivate: true}, "10.1.2.3:80", true},
		{rest.Guard{AllowPrivate: true}, "[fd12::1]:80", true},
		{rest.Guard{AllowPrivate: true}, "100.64.1.1:80", true},
		{rest.Guard{AllowPrivate: true}, "[64:ff9b::10.0.0.1]:80", true},
		{rest.Guard{AllowPrivate: true}, "169.254.169.254:80", false},
		{rest.Guard{AllowPrivate: true}, "[fd00:ec2::254]:80", false},
		{rest.Guard{AllowPrivate: true}, "100.100.100.200:80", false},
		{rest.Guard{AllowPrivate: true}, "[fe80::1]:80", false},
		{rest.Guard{AllowPrivate: true}, "[64:ff9b::169.254.169.254]:80", false},
		{rest.Guard{AllowPrivate: true}, "[64:ff9b:1:a9fe:a9:fe00::]:80", false},
		{rest.Guard{AllowPrivate: true}, "[2002:7f00:1::]:80", false},
		{rest.Guard{AllowPrivate: true}, "0.0.0.0:80", false},
		{rest.Guard{AllowPrivate: true}, "224.0.0.1:80", false},
		{rest.Guard{Allow: list}, "169.254.169.254:80", true},
		{rest.Guard{Allow: list}, "[::ffff:169.254.169.254]:80", true},
		{rest.Guard{Allow: list}, "198.18.0.1:80", true},
		{rest.Guard{Allow: list}, "10.0.0.1:80", false},
		{rest.Guard{AllowPrivate: true, Own: own}, "127.0.0.1:8081", false},
		{rest.Guard{AllowPrivate: true, Own: own}, "[::1]:8081", false},
		{rest.Guard{AllowPrivate: true, Own: own}, "[::ffff:127.0.0.1]:8081", false},
		{rest.Guard{AllowPrivate: true, Own: own}, "127.0.0.1:8082", true},
		{rest.Guard{AllowPrivate: true, Own: own}, "10.9.9.9:8081", true},
		{rest.Guard{AllowPrivate: true, Own: own}, "192.168.7.7:9000", false},
		{rest.Guard{Own: own, Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}, "192.168.7.7:9000", false},
	} {
		err := tt.guard.Judge(netip.MustParseAddrPort(tt.addr))
		if (err == nil) != tt.ok {
			t.Errorf("%+v, %s: got %v, want allowed = %v", tt.guard, tt.addr, err, tt.ok)
		}
		if err != nil && !errors.Is(err, rest.ErrForbidden) {
			t.Errorf("%s: %v does not wrap ErrForbidden", tt.addr, err)
		}
	}
	if (&rest.Guard{AllowPrivate: true}).Judge(netip.AddrPort{}) == nil {
		t.Error("the zero address is allowed")
	}
}

// An IPv6 address is never better than an IPv4 address inside it, and judging never fails.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{0x20, 0x02, 0x7f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Add([]byte{0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1}, false)
	f.Fuzz(func(t *testing.T, b []byte, private bool) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		g := rest.Guard{AllowPrivate: private}
		if g.Judge(netip.AddrPortFrom(a, 80)) != nil {
			return
		}
		if a = a.Unmap(); a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || !private && (a.IsPrivate() || a.IsLoopback()) {
			t.Errorf("%s is allowed", a)
		}
	})
}
