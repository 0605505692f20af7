package tunnel

import "testing"

func TestTrim(t *testing.T) {
	for _, tt := range []struct {
		name             string
		there, add, gone int
		due              bool
	}{
		{"few", 0, trimFrom - 1, 0, false},
		{"many", 0, trimFrom, 0, true},
		{"many that are gone", 0, trimFrom, trimFrom, true},
		{"few beside very many", 8 * trimFrom, trimFrom, 0, false},
		{"a quarter of very many", 6 * trimFrom, 2 * trimFrom, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			trims := trimmer{there: tt.there}
			for range tt.add {
				trims.add()
			}
			for range tt.gone {
				trims.remove()
			}
			if trims.timer != nil {
				trims.timer.Stop()
			}
			if due := trims.timer != nil; due != tt.due {
				t.Errorf("due: %v, want %v", due, tt.due)
			}
			trims.trim()
			if trims.timer != nil || trims.came != 0 || trims.there != tt.there+tt.add-tt.gone {
				t.Errorf("after it: %+v", &trims)
			}
		})
	}
}
