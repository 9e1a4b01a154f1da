package store

import (
	"fmt"

	zsqlite "zombiezen.com/go/sqlite"
)

// exec runs a statement that returns no rows and says how many it changed.
func exec(conn *zsqlite.Conn, sql string, args ...any) (changes int, err error) {
	stmt, err := prepare(conn, sql, args)
	if err != nil {
		return 0, err
	}
	if _, err := stmt.Step(); err != nil {
		return 0, err
	}
	return conn.Changes(), nil
}

// query hands every row to f. The statement is reset before query returns, also when f fails: one that is
// left standing would hold its snapshot.
func query(conn *zsqlite.Conn, sql string, f func(*zsqlite.Stmt) error, args ...any) (err error) {
	stmt, err := prepare(conn, sql, args)
	if err != nil {
		return err
	}
	for {
		more, err := stmt.Step()
		if err != nil {
			return err // Step has reset it
		}
		if more {
			err = f(stmt)
		}
		if !more || err != nil {
			if resetErr := stmt.Reset(); err == nil {
				err = resetErr
			}
			return err
		}
	}
}

func prepare(conn *zsqlite.Conn, sql string, args []any) (*zsqlite.Stmt, error) {
	stmt, err := conn.Prepare(sql)
	if err != nil {
		return nil, err
	}
	for i, arg := range args {
		switch v := arg.(type) {
		case int64:
			stmt.BindInt64(i+1, v)
		case int:
			stmt.BindInt64(i+1, int64(v))
		case string:
			stmt.BindText(i+1, v)
		case []byte:
			stmt.BindBytes(i+1, v)
		default:
			return nil, fmt.Errorf("parameter %d is a %T, which no column holds", i+1, arg)
		}
	}
	return stmt, nil
}

// blob copies a column's bytes.
func blob(row *zsqlite.Stmt, column int) []byte {
	b := make([]byte, row.ColumnLen(column))
	row.ColumnBytes(column, b)
	return b
}
