// Package skein migrates every tenant database of a multi-tenant product.
//
// It is the language of the domain: a [Tenant] has a [Target], where its data
// lives; a [Set] holds the [Migration] files; a tenant's [History] says what
// has run there; [MakePlan] turns the three into steps or a precise refusal; a
// [Fleet] carries plans out over many tenants at once and reports them as one
// stream of [Event] values.
//
// The package knows no database driver. What a database must be able to do is
// the [Engine] interface, implemented by the packages under engine/.
package skein
