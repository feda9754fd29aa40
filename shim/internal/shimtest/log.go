package shimtest

import (
	"flag"
	"io"
	"sync"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// Lines are a log's lines of level info and above: level, message and error.
type Lines struct {
	mu  sync.Mutex
	all []string
}

// NewLog returns a logger, and what is logged with it.
func NewLog() (*logrus.Entry, *Lines) {
	logger, lines := logrus.New(), &Lines{}
	logger.SetOutput(io.Discard)
	logger.AddHook(lines)
	return logrus.NewEntry(logger), lines
}

// All returns the lines until now.
func (l *Lines) All() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all...)
}

// Levels implements logrus.Hook.
func (l *Lines) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (l *Lines) Fire(entry *logrus.Entry) error {
	if entry.Level > logrus.InfoLevel {
		return nil
	}
	line := entry.Level.String() + " " + entry.Message
	if entry.Data["trial"] == true {
		line += " on trial"
	}
	if err, ok := entry.Data[logrus.ErrorKey].(error); ok {
		line += ": " + err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
	return nil
}

// Main runs a package's tests. What they provoke is logged only with -v.
func Main(m *testing.M) int {
	flag.Parse()
	if !testing.Verbose() {
		log.L.Logger.SetOutput(io.Discard)
	}
	return m.Run()
}
