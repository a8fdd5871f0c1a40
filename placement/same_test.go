package placement

import (
	"reflect"
	"testing"
	"time"
)

// filled is a value of a type with something in every field, and one element in every list; other is something else in the same places.
func filled(t *testing.T, v reflect.Value, other bool) {
	t.Helper()
	n := 1
	if other {
		n = 2
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!other)
	case reflect.String:
		v.SetString(string(rune('a' + n)))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(t, v.Elem(), other)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		filled(t, v.Index(0), other)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		filled(t, e, other)
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), e)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(n), 0)))
			return
		}
		for i := range v.NumField() {
			filled(t, v.Field(i), other)
		}
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}

// differ calls check with each place of v, at any depth, changed alone.
func differ(t *testing.T, root, v reflect.Value, path string, check func(path string)) {
	t.Helper()
	switch {
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		for i := range v.NumField() {
			differ(t, root, v.Field(i), path+"."+v.Type().Field(i).Name, check)
		}
		return
	case v.Kind() == reflect.Pointer:
		differ(t, root, v.Elem(), path, check)
	case v.Kind() == reflect.Slice:
		differ(t, root, v.Index(0), path+"[0]", check)
	case v.Kind() == reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		e.Set(v.MapIndex(reflect.ValueOf("k").Convert(v.Type().Key())))
		was := reflect.ValueOf(e.Interface())
		k := reflect.ValueOf("k").Convert(v.Type().Key())
		differ(t, root, e, path+"[k]", func(p string) { v.SetMapIndex(k, e); check(p) })
		v.SetMapIndex(k, was)
	}
	was := reflect.ValueOf(v.Interface())
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		v.SetZero()
	} else {
		filled(t, v, true)
	}
	check(path)
	v.Set(was)
}

// A report that differs anywhere is news. A new field that Same forgets is found here.
func TestReportsAreTheSameOnlyIfAllOfThemIs(t *testing.T) {
	var a, b Report
	filled(t, reflect.ValueOf(&a).Elem(), false)
	filled(t, reflect.ValueOf(&b).Elem(), false)
	if !a.Same(b) || !b.Same(a) {
		t.Fatal("equal reports differ")
	}
	places := 0
	v := reflect.ValueOf(&b).Elem()
	differ(t, v, v, "Report", func(path string) {
		places++
		if same := a.Same(b); same != (path == "Report.Applied") || same != b.Same(a) {
			t.Errorf("%s alone differs: the same %v", path, same)
		}
	})
	if places < 45 {
		t.Errorf("only %d places were tried", places)
	}
	if !a.Same(b) {
		t.Error("the report was not put back")
	}
	t.Logf("%d places", places)
}
