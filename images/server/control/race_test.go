//go:build race

package control

func init() { raceEnabled = true }
