package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Listener finds the process that listens on a TCP port of this machine, from Linux's /proc: of several that share the socket, the one with the
// lowest id, which is the first. It must belong to this user, or this user be root.
func Listener(port int) (Process, error) {
	sockets, err := listening(port)
	if err != nil {
		return 0, fmt.Errorf("who listens on port %d: %w", port, err)
	}
	found := Process(0)
	for _, id := range processes() {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", id))
		if err != nil {
			return 0, err
		}
		for _, link := range links {
			to, err := os.Readlink(link)
			if err == nil && slices.Contains(sockets, to) && (found == 0 || id < found) {
				found = id
			}
		}
	}
	if found == 0 {
		return 0, fmt.Errorf("who listens on port %d: no process of this user does", port)
	}
	return found, nil
}

// listening returns the sockets that listen on a port, as links in /proc name them.
func listening(port int) ([]string, error) {
	const listen = "0A"
	want := fmt.Sprintf(":%04X", port)
	var sockets []string
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], want) && f[3] == listen {
				sockets = append(sockets, "socket:["+f[9]+"]")
			}
		}
	}
	return sockets, nil
}

// processes are all there are.
func processes() []Process {
	entries, _ := os.ReadDir("/proc")
	var all []Process
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, Process(id))
		}
	}
	return all
}

// FamilyCPU is what the process and its descendants have used so far, with those that have ended and been waited for: for a server that works in many
// processes, such as PostgreSQL.
func (p Process) FamilyCPU() (time.Duration, error) {
	type member struct {
		parent Process
		used   time.Duration
	}
	all := make(map[Process]member)
	for _, id := range processes() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", int(id)))
		if err != nil {
			continue // it has ended since
		}
		own, err := ParseStat(data)
		if err != nil {
			return 0, err
		}
		// ParseStat has made sure that there are enough.
		fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		parent, _ := strconv.Atoi(string(fields[1]))
		for _, f := range fields[13:min(15, len(fields))] { // of its children that were waited for
			if n, err := strconv.ParseInt(string(f), 10, 64); err == nil {
				own += time.Duration(n) * tick
			}
		}
		all[id] = member{Process(parent), own}
	}
	if _, ok := all[p]; !ok {
		return 0, fmt.Errorf("measure process %d: it does not run", int(p))
	}
	total := time.Duration(0)
	for id, m := range all {
		for at := id; at > 0; at = all[at].parent {
			if at == p {
				total += m.used
				break
			}
		}
	}
	return total, nil
}
