/*
 * tests/model/epoch.pml: the counters behind "reused when nobody can still touch it" (DESIGN section 6, epoch.c).
 * The other models use the property as an axiom; here it is proved, under sequential consistency.
 *
 *   reader                                      reclaimer
 *   e = epoch                                   unlink the object (CAS of the word)
 *   active = e        (full barrier after)      stamp = epoch++
 *   load the word; use what it names            for each thread: wait for active == 0 or active > stamp
 *   active = 0        (release)                 reuse the object
 *
 *   Why: a reader that the scan saw idle, or with a later epoch, loads the word after the unlinking. The store of
 *   `active` must be ordered before the load of the word (StoreLoad): on hardware that is a full barrier, an
 *   acquire load after a seq_cst store is not enough in C11; BUG_LOAD_BEFORE_ACTIVE is what a weaker one allows.
 */
#define READERS 2
#define OBJECTS 3
#ifndef ROUNDS
#define ROUNDS 4
#endif

byte epoch = 1;
byte inside[READERS]; /* `active`, a keyword here; 0: outside */
byte word;             /* names the current object */
bool reusable[OBJECTS];
byte in_use[OBJECTS];  /* readers at it: a ghost */

proctype reader(byte me)
{
	byte e, seen;

end:	do
	:: true ->
#ifdef BUG_LOAD_BEFORE_ACTIVE
		d_step { seen = word; in_use[seen]++ };
		e = epoch;
		inside[me] = e;
#else
		e = epoch;
		inside[me] = e;
		d_step { seen = word; in_use[seen]++ };
#endif
		assert(!reusable[seen]);
		assert(!reusable[seen]);
		d_step { in_use[seen]--; seen = 0; e = 0 };
		inside[me] = 0
	od
}

/* Objects are used round robin: the next one must have been reclaimed before. */
proctype reclaimer()
{
	byte old, stamp, i, rounds;

	do
	:: rounds < ROUNDS ->
		rounds++;
		old = word;
		d_step { reusable[(old + 1) % OBJECTS] = false };
#ifdef BUG_STAMP_BEFORE_UNLINK
		d_step { stamp = epoch; epoch++ };
		word = (old + 1) % OBJECTS;
#else
		word = (old + 1) % OBJECTS;
		d_step { stamp = epoch; epoch++ };
#endif
		i = 0;
		do
		:: i < READERS ->
#ifdef BUG_OFF_BY_ONE
			(inside[i] == 0 || inside[i] >= stamp);
#else
			(inside[i] == 0 || inside[i] > stamp);
#endif
			i++
		:: i == READERS -> break
		od;
		atomic { assert(in_use[old] == 0); reusable[old] = true }
	:: rounds == ROUNDS -> break
	od
}

init
{
	atomic {
		reusable[1] = true;
		reusable[2] = true;
		run reader(0);
		run reader(1);
		run reclaimer()
	}
}
