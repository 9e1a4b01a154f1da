package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// team is what a leg measures: one process, or several hubs that share the work behind a balancer of the bench's.
type team struct {
	address  string // where to post
	children []*load.Child
	sites    []*site
	balancer *forwarder // nil with one process
	apart    bool       // each in a network namespace
}

// site is where one hub of several runs: the machine's own network, or a network namespace, whose loopback then has the same servers on the same
// addresses as the machine's.
type site struct {
	space         *namespace
	listen, admin string
	ready         string // URL, in the machine's network
	doors         []*forwarder
}

// dialWithin bounds a connection of a forwarder, and settledWithin how long hubs may take to share the work.
const (
	dialWithin    = 10 * time.Second
	settledWithin = time.Minute
)

// newSite gives a hub its addresses. In a namespace, which it owns, it brings the servers (host:port) to the hub, and to the hub those who ask whether it is ready.
func newSite(ctx context.Context, space *namespace, servers []string) (*site, error) {
	s := &site{space: space, listen: load.FreeAddress(ctx), admin: load.FreeAddress(ctx)}
	s.ready = "http://" + s.admin + "/readyz"
	if space == nil {
		return s, nil
	}
	outside, err := net.Listen("tcp", s.admin)
	if err != nil {
		s.close()
		return nil, err
	}
	s.doors = append(s.doors, forward(outside, func(int) (net.Conn, error) { return s.dial(s.admin) }))
	for _, server := range servers {
		var inside net.Listener
		err := space.do(func() (err error) {
			inside, err = net.Listen("tcp", server)
			return err
		})
		if err != nil {
			s.close()
			return nil, fmt.Errorf("a way from a network namespace to %s: %w", server, err)
		}
		s.doors = append(s.doors, forward(inside, func(int) (net.Conn, error) { return net.DialTimeout("tcp", server, dialWithin) }))
	}
	return s, nil
}

// startSeveral starts hubs that share the work, each in a network namespace where the machine lets one.
func (r *runner) startSeveral(ctx context.Context, l leg, in *room, dir string, sink *load.Sink) (_ *team, err error) {
	servers, err := in.servers(ctx)
	if err != nil {
		return nil, err
	}
	t := &team{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	var why error
	if t.sites, why = newSites(ctx, l.hubs, append(servers, sink.Address())); why != nil {
		_, _ = fmt.Fprintf(r.Out, "  %s: without network namespaces: %v\n", l.name, why)
	}
	t.apart = why == nil
	for i, s := range t.sites {
		own := filepath.Join(dir, fmt.Sprintf("hub%d", i+1))
		if err := os.Mkdir(own, 0o700); err != nil {
			return nil, err
		}
		command, err := r.command(l, in, own, sink, s.listen, s.admin)
		if err != nil {
			return nil, err
		}
		var child *load.Child
		err = s.space.do(func() (err error) { // the process is where the thread is that starts it
			child, err = load.Start(ctx, command)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("hub %d: %w", i+1, err)
		}
		t.children = append(t.children, child)
	}
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	return t, t.balance()
}

// dial connects to an address of the hub's network.
func (s *site) dial(address string) (c net.Conn, err error) {
	err = s.space.do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, dialWithin)
		return err
	})
	return c, err
}

func (s *site) close() {
	for _, d := range s.doors {
		_ = d.close() // an error means that it has been
	}
	s.space.close()
}

// newSites are n of them, each in a namespace where the machine lets one; otherwise err says why, and they are all in the machine's own network.
func newSites(ctx context.Context, n int, servers []string) (sites []*site, apart error) {
	for range n {
		space, err := newNamespace()
		if err != nil {
			apart = err
			break
		}
		s, err := newSite(ctx, space, servers)
		if err != nil {
			apart = err
			break
		}
		sites = append(sites, s)
	}
	if apart == nil {
		return sites, nil
	}
	for _, s := range sites {
		s.close()
	}
	sites = nil
	for range n {
		s, _ := newSite(ctx, nil, nil) // without a namespace it does not fail
		sites = append(sites, s)
	}
	return sites, apart
}

// balance has every connection to one address carried to the hubs in turn.
func (t *team) balance() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	t.address = l.Addr().String()
	t.balancer = forward(l, func(n int) (net.Conn, error) {
		s := t.sites[n%len(t.sites)]
		return s.dial(s.listen)
	})
	return nil
}

// settled returns when each hub reads some of the partitions.
func (t *team) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settledWithin)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{Proxy: nil}}
	defer client.CloseIdleConnections()
	for _, s := range t.sites {
		for {
			holds, err := reads(ctx, client, s.ready)
			if holds {
				break
			}
			if stop := pause(ctx, 50*time.Millisecond); stop != nil {
				return errors.Join(fmt.Errorf("the hub at %s reads no partitions: %w", s.ready, stop), err)
			}
		}
	}
	return nil
}

// reads asks a hub whether its first route reads any partitions.
func reads(ctx context.Context, client *http.Client, url string) (bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return false, err
	}
	defer func() { _ = answer.Body.Close() }()
	var state struct {
		Routes []struct{ Holds string }
	}
	if err := json.NewDecoder(answer.Body).Decode(&state); err != nil {
		return false, err
	}
	return len(state.Routes) > 0 && state.Routes[0].Holds != "", nil
}

// cpu is what all have used together.
func (t *team) cpu() (total time.Duration, err error) {
	for _, child := range t.children {
		used, err := child.CPU()
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// memory is what all hold together.
func (t *team) memory() (total load.Memory, err error) {
	for _, child := range t.children {
		m, err := child.Memory()
		if err != nil {
			return total, err
		}
		total.RSS += m.RSS
		total.Peak += m.Peak
	}
	return total, nil
}

// ended is the error of one that has ended by itself.
func (t *team) ended() error {
	for _, child := range t.children {
		select {
		case <-child.Exited():
			return fmt.Errorf("the process ended by itself: %w", child.Stop(0))
		default:
		}
	}
	return nil
}

// stop asks all to end, one after the other.
func (t *team) stop() error {
	var errs []error
	for _, child := range t.children {
		errs = append(errs, child.Stop(stopped))
	}
	return errors.Join(errs...)
}

// close kills what runs and frees what they had; it may follow stop.
func (t *team) close() {
	for _, child := range t.children {
		child.Kill()
	}
	if t.balancer != nil {
		_ = t.balancer.close()
	}
	for _, s := range t.sites {
		s.close()
	}
}
