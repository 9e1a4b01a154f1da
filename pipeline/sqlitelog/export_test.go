package sqlitelog

// Written is the group's place on disk; -1 when it has none.
func (l *Log) Written(topic, group string) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p := l.places[placeKey{l.topics[topic], group}]
	if p == nil {
		return -1
	}
	return p.written.Load()
}

// Recent returns c with another bound of the identities kept in memory.
func Recent(c Config, n int) Config {
	c.recent = n
	return c
}

// Sets returns how many sets of identities are on disk, and how many are in memory.
func (l *Log) Sets() (sets, memory int) {
	l.ids.mu.Lock()
	defer l.ids.mu.Unlock()
	return len(l.ids.sets), l.ids.recent.size() + l.ids.flushing.size()
}

// Entries returns how many identities are in sets on disk.
func (l *Log) Entries() (n int64) {
	l.ids.mu.Lock()
	defer l.ids.mu.Unlock()
	for _, s := range l.ids.sets {
		n += s.count
	}
	return n
}

// Hold moves the identities in memory to where they are while a flush writes them, and no flush does.
func (l *Log) Hold() {
	l.ids.mu.Lock()
	defer l.ids.mu.Unlock()
	l.ids.flushing, l.ids.recent = l.ids.recent, newHashes()
}
