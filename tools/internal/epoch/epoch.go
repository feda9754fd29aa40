// Package epoch reads the time that everything made for a version carries.
package epoch

import (
	"errors"
	"os"
	"strconv"
	"time"
)

// Time returns SOURCE_DATE_EPOCH. It has no default, because the present time would make each build different.
func Time() (time.Time, error) {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return time.Time{}, errors.New("SOURCE_DATE_EPOCH must be the version's time, in seconds since 1970")
	}
	return time.Unix(seconds, 0).UTC(), nil
}
