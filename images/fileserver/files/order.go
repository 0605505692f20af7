package files

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// order is how a listing is sorted: folders first, then by one column.
type order struct {
	by   string // "name", "size" or "time"
	down bool
}

var byName = order{by: "name"}

// parseOrder reads the sort parameter of a listing, "size" or "-size"; what it does not know sorts by name.
func parseOrder(s string) order {
	by, down := strings.CutPrefix(s, "-")
	switch by {
	case "name", "size", "time":
		return order{by: by, down: down}
	}
	return byName
}

func (o order) String() string {
	if o.down {
		return "-" + o.by
	}
	return o.by
}

// href leads to a page of the listing in this order. The plain address is the first page by name.
func (o order) href(page int) string {
	var query []string
	if o != byName {
		query = append(query, "sort="+o.String())
	}
	if page > 1 {
		query = append(query, "page="+strconv.Itoa(page))
	}
	if len(query) == 0 {
		return "./"
	}
	return "?" + strings.Join(query, "&")
}

func (o order) sort(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int {
		if a.folder != b.folder {
			if a.folder {
				return -1
			}
			return 1
		}
		c := 0
		switch o.by {
		case "size":
			if !a.folder {
				c = cmp.Compare(a.size, b.size)
			}
		case "time":
			c = a.modified.Compare(b.modified)
		default:
			c = compareNames(a.name, b.name)
		}
		if o.down {
			c = -c
		}
		if c != 0 {
			return c
		}
		return compareNames(a.name, b.name)
	})
}

// columns are the headings. A heading sorts by its column, and the other way round when it is already sorted so; the
// first click on size or time asks for the largest or the latest.
func (o order) columns() []column {
	columns := []column{{Name: "Name"}, {Name: "Size"}, {Name: "Modified (UTC)"}}
	for i, by := range []string{"name", "size", "time"} {
		c := &columns[i]
		c.Class = by
		next := order{by: by, down: by != "name"}
		if by == o.by {
			next.down = !o.down
			c.Sort = "ascending"
			if o.down {
				c.Sort = "descending"
			}
		}
		c.Href = next.href(1)
	}
	return columns
}

// compareNames orders names as people do: without regard to case, and numbers by their value. Names that are equal so
// are ordered by their bytes.
func compareNames(a, b string) int {
	x, y := strings.ToLower(a), strings.ToLower(b)
	for x != "" && y != "" {
		m, n := leadingDigits(x), leadingDigits(y)
		if m > 0 && n > 0 {
			p, q := strings.TrimLeft(x[:m], "0"), strings.TrimLeft(y[:n], "0")
			if c := cmp.Or(cmp.Compare(len(p), len(q)), cmp.Compare(p, q)); c != 0 {
				return c
			}
			x, y = x[m:], y[n:]
			continue
		}
		if x[0] != y[0] {
			return cmp.Compare(x[0], y[0])
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

func leadingDigits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// paginate cuts out one page and describes its place; the pager is nil if everything fits on one page.
func paginate(entries []entry, page string, o order) ([]entry, *pager) {
	if len(entries) <= maxRows {
		return entries, nil
	}
	pages := (len(entries) + maxRows - 1) / maxRows
	n, err := strconv.Atoi(page)
	if err != nil {
		n = 1
	}
	n = min(max(n, 1), pages)
	pg := &pager{Page: n, Pages: pages}
	if n > 1 {
		pg.Previous = o.href(n - 1)
	}
	if n < pages {
		pg.Next = o.href(n + 1)
	}
	return entries[(n-1)*maxRows : min(n*maxRows, len(entries))], pg
}
