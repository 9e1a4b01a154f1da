// Package torture breaks the real hub on purpose and counts what that costs: it kills it at random and between any two steps of an
// event's journey, fills and breaks its disk, alters its files, gives it targets that fail, crawl and lie, and posts it what strangers
// post. The hub is the program as it is built for users, on real files and loopback; nothing is mocked.
//
// Every scenario returns its violations as text instead of failing a test. So the same scenario serves twice: the hub must pass it, and a
// hub that was built with one deliberate mistake (mutant_test.go) must not. A check that no mistake makes fail proves nothing.
//
// The tests called Cluster do the same to hubs that share a real Kafka and a real PostgreSQL: they kill and freeze hubs, brokers and the database, and read what was
// written past the hubs. They run one after the other.
//
// Everyday runs are short. TIDEWIRE_TORTURE=full runs the long campaigns and prints one line of JSON for each fault and invariant;
// TIDEWIRE_TORTURE_SEED repeats a run's choices.
package torture
