//go:build !linux

package bench

import (
	"errors"
	"fmt"
)

// namespace is a network of its own on this machine, which only Linux has. Nil is the machine's own network.
type namespace struct{}

func newNamespace() (*namespace, error) {
	return nil, fmt.Errorf("make a network namespace: %w", errors.ErrUnsupported)
}

func (n *namespace) do(f func() error) error { return f() }

func (n *namespace) close() {}
