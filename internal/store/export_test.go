package store

// Remembered says how many parked keys and leases the picture holds.
func (s *Store) Remembered() (parked, leases int) {
	s.picture.mu.Lock()
	defer s.picture.mu.Unlock()
	return len(s.picture.parked), len(s.picture.leases)
}
