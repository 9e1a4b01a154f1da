package webhooks

import (
	"net/http"
	"net/netip"
	"strings"
)

// caller is the address of whoever made the call: the peer, or, where the peer is a trusted proxy, the last address in
// X-Forwarded-For that no trusted proxy has. Addresses to the left of that one are the caller's own words and count for nothing.
func (e *Ear) caller(r *http.Request) netip.Addr {
	peer := peerOf(r.RemoteAddr)
	if len(e.proxies) == 0 || !within(e.proxies, peer) {
		return peer
	}
	lines := r.Header.Values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		for rest := lines[i]; rest != ""; {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				rest, hop = "", rest
			}
			a := peerOf(strings.TrimSpace(hop))
			if !a.IsValid() {
				// Not written by a proxy that is trusted: the last one that is stands for it.
				return peer
			}
			peer = a
			if !within(e.proxies, a) {
				return a
			}
		}
	}
	return peer
}

// peerOf reads an address with or without a port; invalid when s is neither.
func peerOf(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// traceparent returns the call's W3C trace context when it is well formed, else "".
// https://www.w3.org/TR/trace-context/#traceparent-header-field-values
func traceparent(h http.Header) string {
	values := h["Traceparent"]
	if len(values) != 1 || len(values[0]) != 55 {
		return ""
	}
	v := values[0]
	for i := range len(v) {
		c := v[i]
		if i == 2 || i == 35 || i == 52 {
			if c != '-' {
				return ""
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	if v[:2] != "00" || strings.Trim(v[3:35], "0") == "" || strings.Trim(v[36:52], "0") == "" {
		return ""
	}
	return v
}
