//go:build unix && race

package e2e

func init() { raceEnabled = true }
