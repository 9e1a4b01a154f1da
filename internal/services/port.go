package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// address is host:port on loopback.
func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts are n ports on loopback on which nothing listened a moment ago. They lie below those that Linux gives to outgoing connections, so that none of these
// takes one before the server that it is meant for does, or while that server is down. Those in preferred come first if they are free.
func freePorts(ctx context.Context, n int, preferred ...int) ([]int, error) {
	const low, high = 15_000, 32_000
	var config net.ListenConfig
	var ports []int
	var held []net.Listener // so that no port is given twice
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for tries := 0; len(ports) < n; tries++ {
		if tries == 1000 {
			return nil, errors.New("find free ports on 127.0.0.1: none was free in a thousand tries")
		}
		port := low + rand.IntN(high-low)
		if tries < len(preferred) {
			port = preferred[tries]
		}
		l, err := config.Listen(ctx, "tcp", address(port))
		if err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("find free ports: %w", ctx.Err())
			}
			continue
		}
		ports, held = append(ports, port), append(held, l)
	}
	return ports, nil
}

// errPortTaken is wrapped by the error of a start when another process took the port after it was found free.
var errPortTaken = errors.New("its port was taken by another process")
