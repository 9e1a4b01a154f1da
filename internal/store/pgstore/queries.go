package pgstore

// All SQL of the store but its tables, which are in migrations/, and the partitions, which are in spans.go.
//
// The states, as rows have them: 1 parked, 2 delivered, 3 dead, 4 skipped.
const (
	sqlServer = `SELECT clock_timestamp(), current_setting('server_version_num'), current_setting('server_version'),
		current_setting('server_encoding'), current_setting('fsync')`
	sqlProbe = `INSERT INTO leases (name, holder, until) VALUES ($1, $2, clock_timestamp())
		ON CONFLICT (name) DO UPDATE SET until = excluded.until`

	sqlRoutes        = `SELECT id, name FROM routes`
	sqlSources       = `SELECT id, name FROM sources`
	sqlPartitions    = `SELECT id, topic, partition FROM partitions`
	sqlFindNames     = `SELECT coalesce((SELECT id FROM routes WHERE name = $1), 0), coalesce((SELECT id FROM sources WHERE name = $2), 0)`
	sqlAddRoute      = `INSERT INTO routes (name) VALUES ($1) ON CONFLICT DO NOTHING`
	sqlAddSource     = `INSERT INTO sources (name) VALUES ($1) ON CONFLICT DO NOTHING`
	sqlAddPartition  = `INSERT INTO partitions (topic, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	sqlFindRoute     = `SELECT id FROM routes WHERE name = $1`
	sqlFindSource    = `SELECT id FROM sources WHERE name = $1`
	sqlFindPartition = `SELECT id FROM partitions WHERE topic = $1 AND partition = $2`
)

// The hot path.
const (
	// Of what is asked, only that comes back of which something is known. OFFSET keeps the look-ups from being made twice.
	sqlAdmit = `SELECT n, state, behind FROM (
			SELECT q.n,
				(SELECT d.state FROM deliveries d WHERE d.route_id = q.route AND d.source_id = q.source AND d.event_id = q.id LIMIT 1) AS state,
				q.key IS NOT NULL AND EXISTS (SELECT 1 FROM parked p WHERE p.route_id = q.route AND p.key_hash = q.key) AS behind
			FROM unnest($1::int[], $2::int[], $3::text[], $4::uuid[]) WITH ORDINALITY AS q (route, source, id, key, n)
			OFFSET 0) AS known
		WHERE state IS NOT NULL OR behind`

	sqlDelivered = `INSERT INTO deliveries
		(recorded, decided_at, duration, log_offset, route_id, source_id, partition_id, attempts, code, state, event_id, target_id)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[], $10::smallint[], $11::text[], $12::text[])
		ON CONFLICT DO NOTHING`

	// Of the deliveries that have a row already, those whose parking ends now.
	sqlAmongParked = `SELECT q.n FROM unnest($1::int[], $2::int[], $3::text[], $4::bigint[]) WITH ORDINALITY AS q (route, source, id, recorded, n)
		JOIN parked p ON p.route_id = q.route AND p.source_id = q.source AND p.event_id = q.id AND p.recorded = q.recorded`
)

// Parked deliveries and all decisions about them. Whoever adds, removes or moves a row of a key holds the key's advisory lock,
// so that a key has one head whatever two hubs do at once. Each decision is one statement: those of a batch go as one transaction in one round trip.
const (
	// Locks are taken in the order of their numbers, or two batches would wait for one another.
	sqlLockKeys = `SELECT count(pg_advisory_xact_lock(k)) FROM (SELECT DISTINCT k FROM unnest($1::bigint[]) AS k ORDER BY k) AS keys`

	sqlPark = `WITH fresh AS (
			INSERT INTO deliveries (recorded, decided_at, duration, log_offset, route_id, source_id, partition_id, attempts, code, state, event_id, target_id, reason, error)
			VALUES ($1::bigint, $2::bigint, $3::bigint, $4::bigint, $5::int, $6::int, $7::int, $8::int, $9::int, 1, $10::text, $11::text, $12::text, $13::text)
			ON CONFLICT DO NOTHING RETURNING 1)
		INSERT INTO parked (recorded, log_offset, next_at, due_at, lease_until, parked_at, first_at, crc, route_id, source_id, partition_id, attempts, parks,
			head, key_hash, event_id, history, attributes, body)
		SELECT $1::bigint, $4::bigint, $14::bigint, $14::bigint, 0, $2::bigint, $15::bigint, $16::bigint, $5::int, $6::int, $7::int, $8::int, $17::int,
			$18::uuid IS NULL OR NOT EXISTS (SELECT 1 FROM parked p WHERE p.route_id = $5::int AND p.key_hash = $18::uuid),
			$18::uuid, $10::text, $19::text, $20::text, $21::bytea
		FROM fresh`

	sqlParkAgain = `WITH moved AS (
			UPDATE parked SET next_at = $14::bigint, due_at = $14::bigint, lease_until = 0, first_at = $15::bigint, attempts = $8::int, parks = $16::int, history = $17::text
			WHERE number = $18::bigint AND route_id = $5::int AND source_id = $6::int AND event_id = $10::text AND recorded = $1::bigint
			AND ($19::bigint = 0 OR lease_until = $19::bigint)
			RETURNING 1)
		UPDATE deliveries d SET state = 1, decided_at = $2::bigint, duration = $3::bigint, attempts = $8::int, code = $9::int, target_id = $11::text, reason = $12::text, error = $13::text
		FROM moved
		WHERE d.route_id = $5::int AND d.source_id = $6::int AND d.event_id = $10::text AND d.recorded = $1::bigint AND $4::bigint IS NOT NULL AND $7::int IS NOT NULL`

	// Any end of a delivery: a row of its own (only for one that comes from the log, $15 = 0), or the end of its parking, which makes the next
	// of its key the head. $16 is the lease a Dead outcome is held to; the letter is written when this decision is the one that counts.
	sqlFinish = `WITH fresh AS (
			INSERT INTO deliveries (recorded, decided_at, duration, log_offset, route_id, source_id, partition_id, attempts, code, state, event_id, target_id, reason, error)
			SELECT $1::bigint, $2::bigint, $3::bigint, $4::bigint, $5::int, $6::int, $7::int, $8::int, $9::int, $14::smallint, $10::text, $11::text, $12::text, $13::text
			WHERE $15::bigint = 0
			ON CONFLICT DO NOTHING RETURNING 1),
		gone AS (
			DELETE FROM parked p
			WHERE p.route_id = $5::int AND p.source_id = $6::int AND p.event_id = $10::text AND p.recorded = $1::bigint
			AND ($15::bigint = 0 OR p.number = $15::bigint) AND ($16::bigint = 0 OR p.lease_until = $16::bigint)
			AND NOT EXISTS (SELECT 1 FROM fresh)
			RETURNING p.number, p.route_id, p.key_hash, p.head),
		heir AS MATERIALIZED (
			SELECT (SELECT e.number FROM parked e WHERE e.route_id = gone.route_id AND e.key_hash = gone.key_hash AND e.number <> gone.number ORDER BY e.number LIMIT 1) AS number
			FROM gone WHERE gone.head AND gone.key_hash IS NOT NULL),
		next AS (
			UPDATE parked SET head = true FROM heir WHERE parked.number = heir.number),
		again AS (
			UPDATE deliveries d SET state = $14::smallint, decided_at = $2::bigint, duration = $3::bigint, attempts = $8::int, code = $9::int,
				target_id = $11::text, reason = $12::text, error = $13::text
			FROM gone WHERE d.route_id = $5::int AND d.source_id = $6::int AND d.event_id = $10::text AND d.recorded = $1::bigint)
		INSERT INTO dead (recorded, decided_at, first_at, duration, log_offset, crc, route_id, source_id, partition_id, attempts, parks, code,
			event_id, target_id, reason, error, history, attributes, body)
		SELECT $1::bigint, $2::bigint, $17::bigint, $3::bigint, $4::bigint, $18::bigint, $5::int, $6::int, $7::int, $8::int, $19::int, $9::int,
			$10::text, $11::text, coalesce($12::text, ''), coalesce($13::text, ''), $20::text, $21::text, $22::bytea
		WHERE $14::smallint = 3 AND (EXISTS (SELECT 1 FROM fresh) OR EXISTS (SELECT 1 FROM gone))`

	sqlParkedSince = `UPDATE parked SET parked_at = $1 WHERE route_id = $2 AND source_id = $3 AND event_id = $4 AND recorded = $5`

	// A parked row whose event is damaged goes as it stands.
	sqlBuryParked = `WITH gone AS (
			DELETE FROM parked p WHERE p.number = $1::bigint AND p.lease_until = $2::bigint RETURNING p.*),
		heir AS MATERIALIZED (
			SELECT (SELECT e.number FROM parked e WHERE e.route_id = gone.route_id AND e.key_hash = gone.key_hash AND e.number <> gone.number ORDER BY e.number LIMIT 1) AS number
			FROM gone WHERE gone.head AND gone.key_hash IS NOT NULL),
		next AS (
			UPDATE parked SET head = true FROM heir WHERE parked.number = heir.number),
		again AS (
			UPDATE deliveries d SET state = 3, decided_at = $3::bigint, duration = 0, code = 0, target_id = '', reason = $4::text, error = $5::text
			FROM gone WHERE d.route_id = gone.route_id AND d.source_id = gone.source_id AND d.event_id = gone.event_id AND d.recorded = gone.recorded)
		INSERT INTO dead (recorded, decided_at, first_at, duration, log_offset, crc, route_id, source_id, partition_id, attempts, parks, code,
			event_id, target_id, reason, error, history, attributes, body)
		SELECT recorded, $3::bigint, first_at, 0, log_offset, crc, route_id, source_id, partition_id, attempts, parks, 0,
			event_id, '', $4::text, $5::text, history, attributes, body
		FROM gone`

	// One look at the index for each route; where nothing is due nothing is written, and there is no commit to wait for.
	sqlDue = `WITH picked AS MATERIALIZED (
			SELECT p.number, p.due_at FROM unnest($1::int[], $2::int[]) AS r (route, room)
			CROSS JOIN LATERAL (SELECT number, due_at FROM parked WHERE route_id = r.route AND head AND due_at <= $3::bigint
				ORDER BY due_at, number LIMIT r.room FOR UPDATE SKIP LOCKED) AS p)
		UPDATE parked p SET lease_until = $4::bigint, due_at = $4::bigint FROM picked WHERE p.number = picked.number
		RETURNING picked.due_at, p.number, p.route_id, p.partition_id, p.log_offset, p.first_at, p.attempts, p.parks, p.history, p.attributes, p.crc, p.body, p.key_hash`
	// What is locked is being settled.
	sqlGiveBack = `WITH back AS MATERIALIZED (
			SELECT p.number FROM unnest($1::bigint[], $2::bigint[]) AS q (number, lease)
			JOIN parked p ON p.number = q.number AND p.lease_until > 0 AND (p.lease_until = q.lease OR q.lease = 0)
			FOR UPDATE OF p SKIP LOCKED)
		UPDATE parked p SET lease_until = 0, due_at = p.next_at FROM back WHERE p.number = back.number`
)

// What people and audits see.
const (
	sqlDead = `SELECT number, partition_id, log_offset, decided_at, first_at, attempts, parks, code, duration, target_id, reason, error, history, attributes, crc, body
		FROM dead WHERE route_id = $1 ORDER BY number DESC LIMIT $2`
	sqlLatest = `SELECT route_id, partition_id, log_offset, event_id, attempts, state, decided_at, code, duration, target_id, reason, error FROM deliveries
		WHERE decided_at >= $1 AND (route_id = $2 OR $2 = 0) AND (state = $3 OR $3 = 0)
		ORDER BY decided_at DESC, log_offset DESC LIMIT $4`
	sqlParkedDeliveries = `SELECT d.route_id, d.partition_id, d.log_offset, d.event_id, d.attempts, d.state, d.decided_at, d.code, d.duration, d.target_id, d.reason, d.error
		FROM (SELECT * FROM parked WHERE route_id = $1 OR $1 = 0 ORDER BY number DESC LIMIT $2) AS p
		JOIN deliveries d ON d.route_id = p.route_id AND d.source_id = p.source_id AND d.event_id = p.event_id AND d.recorded = p.recorded`
	sqlDeadDeliveries = `SELECT route_id, partition_id, log_offset, event_id, attempts, 3::smallint, decided_at, code, duration, target_id, reason, error
		FROM dead WHERE route_id = $1 OR $1 = 0 ORDER BY number DESC LIMIT $2`
	sqlBalance = `SELECT route_id, state, count(*) FROM deliveries GROUP BY route_id, state`
	sqlCount   = `SELECT route_id, sum(parked)::bigint, sum(dead)::bigint, max(oldest) FROM (
			SELECT route_id, count(*) AS parked, 0 AS dead, min(parked_at) AS oldest FROM parked GROUP BY route_id
			UNION ALL
			SELECT route_id, 0, count(*), 0 FROM dead GROUP BY route_id
		) AS both_kinds GROUP BY route_id`
)

// Retention.
const (
	sqlForget = `DELETE FROM deliveries_rest WHERE ctid IN
		(SELECT ctid FROM deliveries_rest WHERE decided_at < $1 AND state IN (2, 4) LIMIT $2)`
	sqlForgetIndex = `DELETE FROM event_index_rest WHERE ctid IN
		(SELECT ctid FROM event_index_rest WHERE recorded < $1 LIMIT $2)`
	sqlUnbury = `WITH gone AS (
			DELETE FROM dead WHERE number IN (SELECT number FROM dead WHERE route_id = $1 AND number > $2 AND decided_at < $3 ORDER BY number LIMIT $4)
			RETURNING number, route_id, source_id, event_id, recorded),
		forgotten AS (
			DELETE FROM deliveries d USING gone
			WHERE d.route_id = gone.route_id AND d.source_id = gone.source_id AND d.event_id = gone.event_id AND d.recorded = gone.recorded AND d.state = 3)
		SELECT count(*), coalesce(max(number), 0) FROM gone`
)

// Leases and hubs: the database's clock decides, and goes on while a statement waits for a row.
const (
	sqlLease = `INSERT INTO leases (name, holder, until) VALUES ($1, $2, clock_timestamp() + $3::interval)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = clock_timestamp() + $3::interval
		WHERE leases.holder = excluded.holder OR leases.until <= clock_timestamp()
		RETURNING 1`
	sqlRelease = `DELETE FROM leases WHERE name = $1 AND holder = $2`
	sqlLeases  = `SELECT name, holder, until FROM leases WHERE until > clock_timestamp() ORDER BY name`

	sqlExpireHubs = `DELETE FROM hubs WHERE seen < clock_timestamp() - $1::interval`
	sqlOtherHub   = `SELECT instance, cluster_config FROM hubs WHERE instance <> $1 AND cluster_config <> $2 ORDER BY started LIMIT 1`
	sqlJoin       = `INSERT INTO hubs (instance, run, cluster_config, started, seen) VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp())
		ON CONFLICT (instance) DO UPDATE SET run = excluded.run, cluster_config = excluded.cluster_config, started = excluded.started, seen = excluded.seen`
	sqlBeat  = `UPDATE hubs SET seen = clock_timestamp() WHERE instance = $1 AND run = $2`
	sqlTaken = `SELECT EXISTS (SELECT 1 FROM hubs WHERE instance = $1 AND run <> $2)`
	sqlLeave = `DELETE FROM hubs WHERE instance = $1 AND run = $2`
	sqlHubs  = `SELECT instance, cluster_config, started, seen FROM hubs WHERE seen >= clock_timestamp() - $1::interval ORDER BY instance`
)

// The index of events.
const (
	sqlIndex = `INSERT INTO event_index (recorded, happened, log_offset, source_id, partition_id, event_id, type, subject, key, body_hash)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[])
		ON CONFLICT DO NOTHING`
	sqlIndexed = `SELECT q.n, e.recorded, e.happened, e.log_offset, e.source_id, e.partition_id, e.event_id, e.type, e.subject, e.key, e.body_hash
		FROM unnest($1::int[], $2::text[], $3::int[], $4::bigint[]) WITH ORDINALITY AS q (source, id, partition, log_offset, n)
		JOIN event_index e ON e.source_id = q.source AND e.event_id = q.id AND (e.partition_id <> q.partition OR e.log_offset <> q.log_offset)`
	sqlFind = `SELECT recorded, happened, log_offset, source_id, partition_id, event_id, type, subject, key, body_hash
		FROM event_index WHERE source_id = $1 AND event_id = $2 ORDER BY recorded, partition_id, log_offset`
	// Of what is asked, only that comes back which is known, the record that is the first one last.
	sqlRecall = `SELECT q.n, e.body_hash FROM unnest($1::int[], $2::text[]) WITH ORDINALITY AS q (source, id, n)
		JOIN event_index e ON e.source_id = q.source AND e.event_id = q.id
		ORDER BY e.recorded DESC, e.partition_id DESC, e.log_offset DESC`
)
