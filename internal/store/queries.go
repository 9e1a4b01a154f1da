package store

// All SQL of the store but its tables, which are in migrations/. The text keeps to what SQLite and PostgreSQL both
// understand; parameters are numbered in the order in which they first occur, because SQLite takes "$1" for a
// name and numbers names in that order (a test holds this).
//
// The states, as rows have them: 1 parked, 2 delivered, 3 dead, 4 skipped.
const (
	sqlRoutes     = `SELECT id, name FROM routes`
	sqlSources    = `SELECT id, name FROM sources`
	sqlPartitions = `SELECT id, topic, partition FROM partitions`

	sqlAddRoute      = `INSERT INTO routes (name) VALUES ($1) ON CONFLICT DO NOTHING`
	sqlAddSource     = `INSERT INTO sources (name) VALUES ($1) ON CONFLICT DO NOTHING`
	sqlAddPartition  = `INSERT INTO partitions (topic, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	sqlFindRoute     = `SELECT id FROM routes WHERE name = $1`
	sqlFindSource    = `SELECT id FROM sources WHERE name = $1`
	sqlFindPartition = `SELECT id FROM partitions WHERE topic = $1 AND partition = $2`
)

// Deliveries.
const (
	// The hot path: a delivery that succeeded at the first go has neither reason nor error.
	sqlDelivered = `INSERT INTO deliveries
		(route_id, partition_id, log_offset, state, decided_at, attempts, code, duration, event_id, target_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`
	sqlDecided = `INSERT INTO deliveries
		(route_id, partition_id, log_offset, state, decided_at, attempts, code, duration, event_id, target_id, reason, error)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING`
	sqlDecidedAgain = `UPDATE deliveries
		SET state = $1, decided_at = $2, attempts = $3, code = $4, duration = $5, target_id = $6, reason = $7, error = $8
		WHERE route_id = $9 AND partition_id = $10 AND log_offset = $11`
	sqlState = `SELECT state FROM deliveries WHERE route_id = $1 AND partition_id = $2 AND log_offset = $3`
	// The last row of the last range before the one given: walks the ranges with two seeks each. As a comparison of pairs it would read the
	// whole range given before it found that there is none before.
	sqlRangeBefore = `SELECT route_id, partition_id, log_offset FROM (
			SELECT * FROM (SELECT route_id, partition_id, log_offset FROM deliveries
				WHERE route_id = $1 AND partition_id < $2
				ORDER BY partition_id DESC, log_offset DESC LIMIT 1) AS same_route
			UNION ALL
			SELECT * FROM (SELECT route_id, partition_id, log_offset FROM deliveries
				WHERE route_id < $1
				ORDER BY route_id DESC, partition_id DESC, log_offset DESC LIMIT 1) AS route_before
		) AS before
		ORDER BY route_id DESC, partition_id DESC LIMIT 1`
	sqlNewest = `SELECT log_offset, state, decided_at, attempts, code, duration, event_id, target_id, reason, error
		FROM deliveries WHERE route_id = $1 AND partition_id = $2 AND (state = $3 OR $3 = 0)
		ORDER BY log_offset DESC LIMIT $4`
	sqlParkedDeliveries = `SELECT d.partition_id, d.log_offset, d.state, d.decided_at, d.attempts, d.code, d.duration, d.event_id, d.target_id, d.reason, d.error
		FROM parked p JOIN deliveries d
		ON d.route_id = p.route_id AND d.partition_id = p.partition_id AND d.log_offset = p.log_offset
		WHERE p.route_id = $1 ORDER BY p.number DESC LIMIT $2`
	sqlDeadDeliveries = `SELECT d.partition_id, d.log_offset, d.state, d.decided_at, d.attempts, d.code, d.duration, d.event_id, d.target_id, d.reason, d.error
		FROM dead p JOIN deliveries d
		ON d.route_id = p.route_id AND d.partition_id = p.partition_id AND d.log_offset = p.log_offset
		WHERE p.route_id = $1 ORDER BY p.number DESC LIMIT $2`
	// One pass in the order of the table; grouping by state as well would sort it all.
	sqlBalance = `SELECT route_id,
		sum(CASE state WHEN 1 THEN 1 ELSE 0 END), sum(CASE state WHEN 2 THEN 1 ELSE 0 END),
		sum(CASE state WHEN 3 THEN 1 ELSE 0 END), sum(CASE state WHEN 4 THEN 1 ELSE 0 END)
		FROM deliveries GROUP BY route_id`

	sqlOldChunk = `SELECT log_offset, state, decided_at FROM deliveries
		WHERE route_id = $1 AND partition_id = $2 AND log_offset > $3 ORDER BY log_offset LIMIT $4`
	sqlForget = `DELETE FROM deliveries
		WHERE route_id = $1 AND partition_id = $2 AND log_offset BETWEEN $3 AND $4
		AND decided_at < $5 AND state IN (2, 4)`
)

// Parked deliveries. "key <> ”" lets the planner use the index that leaves empty keys out.
const (
	sqlPark = `INSERT INTO parked
		(route_id, source_id, key, partition_id, log_offset, head,
		next_at, due_at, lease_until, parked_at, first_at, attempts, parks, history, attributes, crc, body)
		VALUES ($1, $2, $3, $4, $5,
		CASE WHEN EXISTS (SELECT 1 FROM parked WHERE route_id = $1 AND source_id = $2 AND key = $3 AND key <> '') THEN 0 ELSE 1 END,
		$6, $6, 0, $7, $8, $9, $10, $11, $12, $13, $14)`
	sqlParkAgain = `UPDATE parked SET next_at = $1, due_at = $1, lease_until = 0, first_at = $2, attempts = $3, parks = $4, history = $5
		WHERE number = $6`
	sqlParkedByNumber   = `SELECT number, source_id, key, head, lease_until, route_id, partition_id, log_offset FROM parked WHERE number = $1`
	sqlParkedByPosition = `SELECT number, source_id, key, head, lease_until, route_id, partition_id, log_offset FROM parked
		WHERE route_id = $1 AND partition_id = $2 AND log_offset = $3`
	sqlUnpark  = `DELETE FROM parked WHERE number = $1`
	sqlPromote = `UPDATE parked SET head = 1 WHERE number =
		(SELECT min(number) FROM parked WHERE route_id = $1 AND source_id = $2 AND key = $3 AND key <> '')`
	sqlHasElders  = `SELECT 1 FROM parked WHERE route_id = $1 AND source_id = $2 AND key = $3 AND key <> '' LIMIT 1`
	sqlParkedKeys = `SELECT route_id, source_id, key FROM parked WHERE key <> ''`

	sqlDue = `SELECT due_at, number FROM parked WHERE head = 1 AND route_id = $1 AND due_at <= $2
		ORDER BY due_at, number`
	sqlLease = `UPDATE parked SET lease_until = $1, due_at = $1 WHERE number = $2 AND head = 1 AND due_at <= $3`
	sqlLoad  = `SELECT route_id, partition_id, log_offset, first_at, attempts, parks, history, attributes, crc, body
		FROM parked WHERE number = $1`
	sqlGiveBack = `UPDATE parked SET lease_until = 0, due_at = next_at
		WHERE number = $1 AND lease_until > 0 AND (lease_until = $2 OR $2 = 0)`
	sqlEndLeases = `UPDATE parked SET lease_until = 0, due_at = next_at WHERE lease_until > 0`
	sqlOldest    = `SELECT parked_at FROM parked WHERE route_id = $1 ORDER BY number LIMIT 1`
)

// Dead letters and tallies.
const (
	sqlBury = `INSERT INTO dead
		(route_id, partition_id, log_offset, decided_at, first_at, attempts, parks, code, duration, target_id, reason, error, history, attributes, crc, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`
	// A parked row whose event is damaged goes as it stands.
	sqlBuryParked = `INSERT INTO dead
		(route_id, partition_id, log_offset, decided_at, first_at, attempts, parks, code, duration, target_id, reason, error, history, attributes, crc, body)
		SELECT route_id, partition_id, log_offset, CAST($1 AS BIGINT), first_at, attempts, parks, 0, 0, '', CAST($2 AS TEXT), CAST($3 AS TEXT), history, attributes, crc, body
		FROM parked WHERE number = $4`
	sqlDead = `SELECT number, partition_id, log_offset, decided_at, first_at, attempts, parks, code, duration, target_id, reason, error, history, attributes, crc, body
		FROM dead WHERE route_id = $1 ORDER BY number DESC LIMIT $2`
	sqlDeadBefore = `SELECT number, partition_id, log_offset FROM dead
		WHERE route_id = $1 AND number > $2 AND decided_at < $3 ORDER BY number LIMIT $4`
	sqlUnbury     = `DELETE FROM dead WHERE number = $1`
	sqlForgetDead = `DELETE FROM deliveries WHERE route_id = $1 AND partition_id = $2 AND log_offset = $3 AND state = 3`

	sqlTally = `INSERT INTO tallies (route_id, parked, dead) VALUES ($1, $2, $3)
		ON CONFLICT (route_id) DO UPDATE SET parked = tallies.parked + excluded.parked, dead = tallies.dead + excluded.dead`
	sqlWithParked = `SELECT route_id FROM tallies WHERE parked > 0`
	sqlTallies    = `SELECT route_id, parked, dead FROM tallies WHERE parked <> 0 OR dead <> 0`
)

// For another store.
const (
	sqlExportParked = `SELECT p.number, d.route_id, d.partition_id, d.log_offset, d.state, d.decided_at, p.attempts, d.code, d.duration, d.event_id, d.target_id, d.reason, d.error,
		p.next_at, p.parked_at, p.first_at, p.parks, p.history, p.attributes, p.crc, p.body
		FROM parked p JOIN deliveries d ON d.route_id = p.route_id AND d.partition_id = p.partition_id AND d.log_offset = p.log_offset
		WHERE p.number > $1 ORDER BY p.number LIMIT $2`
	sqlExportDead = `SELECT p.number, d.route_id, d.partition_id, d.log_offset, d.state, p.decided_at, p.attempts, p.code, p.duration, d.event_id, p.target_id, p.reason, p.error,
		p.first_at, p.parks, p.history, p.attributes, p.crc, p.body
		FROM dead p JOIN deliveries d ON d.route_id = p.route_id AND d.partition_id = p.partition_id AND d.log_offset = p.log_offset
		WHERE p.number > $1 ORDER BY p.number LIMIT $2`
	sqlExportRange = `SELECT route_id, partition_id, log_offset, state, decided_at, attempts, code, duration, event_id, target_id, reason, error
		FROM deliveries WHERE route_id = $1 AND partition_id = $2 AND log_offset > $3 ORDER BY log_offset LIMIT $4`
)
