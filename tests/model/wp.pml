/*
 * tests/model/wp.pml: the span word where the kernel has no UFFDIO_MOVE (DESIGN section 7): write-protect, copy,
 * store, and drop the page only then. The reference for the EVICT_WP half of evict.c and fault.c.
 *
 *   word = {state, flags, gen, ref}; ref names the far copy throughout: EVICTING keeps HAS_FAR and its reference.
 *
 *   arrow                                      by        what goes with it, in this order
 *   NEAR -> EVICTING (gen+1, flags, ref kept)  evictor   then write-protect, then copy to staging
 *   EVICTING -> DROPPING -> FAR(new)           evictor   after all acks; madvise between the two; then the old
 *                                                        reference is given up
 *   EVICTING -> DROPPING -> FAR(old)           evictor   bytes hash to what was fetched from old
 *   EVICTING, NEAR -> FETCHING -> NEAR         fault     write-protect fault: un-protect between the two; flags,
 *                                                        gen and reference kept
 *   FAR -> FETCHING -> NEAR|HAS_FAR            fault     missing page
 *   EMPTY -> FETCHING -> NEAR                  fault
 *   EMPTY, NEAR, EVICTING, FAR -> DROPPING -> EMPTY (gen+1)    purge
 *
 *   The un-protecting fault must hold the word (FETCHING) while it un-protects. CAS EVICTING -> NEAR and un-protect
 *   afterwards loses writes: the next evictor may claim, protect and copy in between, and the late un-protect then
 *   lets a write through that its drop throws away (BUG_NEAR_THEN_UNPROTECT).
 *   NEAR with the page write-protected is possible (an evictor that lost its claim protects late): such a fault is
 *   served in the same way, never by un-protecting alone.
 *   Without gen the evictor that lost its claim to a fault would drop the page under the claim of the next one
 *   (BUG_NO_GEN): the word it expects has come back, the bytes it stored have not.
 *
 * A record is reused as soon as nobody holds its reference: FETCHING holds it, so no epoch is needed here.
 * gen does not wrap in this model: claims are bounded by CLAIMS. Actors: -DAPPS=1|2 -DEVICTORS=1|2 -DPURGERS=0|1.
 */
#ifndef CLAIMS
#define CLAIMS 4
#endif
#ifndef APPS
#define APPS 1
#endif
#ifndef EVICTORS
#define EVICTORS 2
#endif
#ifndef PURGERS
#define PURGERS 0
#endif
#define RECORDS 3

#define EMPTY 0
#define NEAR 1
#define EVICTING 2
#define DROPPING 3
#define FAR 4
#define FETCHING 5

#define NOREF 7 /* flag HAS_FAR is a reference other than this one */
#define GARBAGE 2
#define NOHASH 3

#define MAKE(st, gen, ref) ((st) + 8 * (ref) + 64 * (gen))
#define STATE(w) ((w) & 7)
#define REF(w) (((w) >> 3) & 7)
#define GEN(w) ((w) >> 6)
#ifdef BUG_NO_GEN
#define NEXT(w) 0
#else
#define NEXT(w) (GEN(w) + 1)
#endif

short W = MAKE(EMPTY, 0, NOREF);
bool present, protected;
byte val = GARBAGE, truth;
byte hash = NOHASH;
byte rec_val[RECORDS] = GARBAGE;
bool rec_live[RECORDS];
byte claims;

#define INVARIANT assert(STATE(W) != NEAR || present)

inline leave(from, to)
{
	assert(W == from);
	W = to;
	INVARIANT
}

inline clear_live(r)
{
	if
	:: r != NOREF ->
		assert(rec_live[r]);
		rec_live[r] = false;
		rec_val[r] = GARBAGE
	:: else
	fi
}

/* madvise(MADV_DONTNEED): whatever is there goes, protection too. */
inline page_drop()
{
	present = false;
	protected = false;
	val = GARBAGE
}

inline fault_zero()
{
	d_step { !present && STATE(W) == EMPTY -> w = W; W = MAKE(FETCHING, GEN(w), NOREF) };
	d_step { assert(!present); present = true; protected = false; val = 0 };
	d_step { leave(MAKE(FETCHING, GEN(w), NOREF), MAKE(NEAR, GEN(w), NOREF)); w = 0 }
}

inline fault_fetch()
{
	d_step { !present && STATE(W) == FAR -> w = W; W = MAKE(FETCHING, GEN(w), REF(w)) };
	atomic {
		assert(!present && rec_val[REF(w)] != GARBAGE);
		present = true;
		protected = false;
		val = rec_val[REF(w)];
		if
		:: hash = val
		:: hash = NOHASH
		fi
	};
	d_step { leave(MAKE(FETCHING, GEN(w), REF(w)), MAKE(NEAR, GEN(w), REF(w))); w = 0 }
}

/* A write met a protected page; by the time the message is handled the word may say anything. */
inline fault_protected()
{
	d_step { present && protected -> w = W };
#ifdef BUG_NEAR_THEN_UNPROTECT
	d_step {
		if
		:: W == w && STATE(w) == EVICTING -> W = MAKE(NEAR, GEN(w), REF(w))
		:: else
		fi
	};
	d_step {
		if
		:: STATE(w) == EVICTING || STATE(w) == NEAR -> protected = false
		:: else
		fi
	};
#else
	if
	:: d_step {
		W == w && (STATE(w) == EVICTING || STATE(w) == NEAR) -> W = MAKE(FETCHING, GEN(w), REF(w))
	   };
		d_step { assert(present); protected = false };
		d_step { leave(MAKE(FETCHING, GEN(w), REF(w)), MAKE(NEAR, GEN(w), REF(w))) }
	:: !(W == w && (STATE(w) == EVICTING || STATE(w) == NEAR)) /* lost, or must wait: comes again */
	fi;
#endif
	w = 0
}

proctype app()
{
	short w;

end:	do
	:: d_step { present -> assert(val == truth) }
	:: d_step { present && !protected -> truth = 1 - truth; val = truth }
	:: fault_protected()
	:: fault_zero()
	:: fault_fetch()
	od
}

inline record_write(r)
{
	r = 0;
	do
	:: rec_live[r] -> r++
	:: else -> break
	od;
	rec_live[r] = true;
	rec_val[r] = copy
}

proctype evictor()
{
	short w, mine;
	byte r, copy;

end:	do
	:: d_step {
			STATE(W) == NEAR && claims < CLAIMS ->
			claims++;
			w = W;
			mine = MAKE(EVICTING, NEXT(w), REF(w));
			W = mine
		};
		/* on a missing page (purged meanwhile) this does nothing */
		d_step {
			if
			:: present -> protected = true
			:: else
			fi
		};
		if
		:: d_step { present -> copy = val }
		:: d_step { !present -> copy = 0 } /* reads as zeros: the claim is gone, see below */
		fi;
		/* store; what was fetched and is unchanged needs none */
		if
		:: d_step { REF(w) != NOREF && hash == copy -> r = REF(w) }
		:: d_step {
			!(REF(w) != NOREF && hash == copy) &&
				(!rec_live[0] || !rec_live[1] || !rec_live[2]) -> record_write(r)
		   }
		fi;
#ifdef BUG_PUBLISH_BEFORE_DROP
		atomic {
			if
			:: W == mine -> W = MAKE(FAR, NEXT(w), r)
			:: W != mine && r != REF(w) -> clear_live(r); goto evict_over
			:: else -> goto evict_over
			fi
		};
		d_step { page_drop(); INVARIANT };
#else
		atomic {
			if
			:: W == mine -> W = MAKE(DROPPING, NEXT(w), REF(w))
			:: W != mine && r != REF(w) -> clear_live(r); goto evict_over
			:: else -> goto evict_over
			fi
		};
		d_step { assert(present); page_drop() };
		d_step { leave(MAKE(DROPPING, NEXT(w), REF(w)), MAKE(FAR, NEXT(w), r)) };
#endif
		d_step {
			if
			:: r != REF(w) -> clear_live(REF(w))
			:: else
			fi
		};
evict_over:
		atomic { w = 0; mine = 0; r = 0; copy = 0 }
	od
}

#if PURGERS > 0
proctype purger()
{
	short w;

end:	do
	:: d_step {
			STATE(W) != FETCHING && STATE(W) != DROPPING && claims < CLAIMS ->
			claims++;
			w = W;
			W = MAKE(DROPPING, NEXT(w), NOREF)
		};
		d_step { page_drop(); truth = 0 };
		d_step { leave(MAKE(DROPPING, NEXT(w), NOREF), MAKE(EMPTY, NEXT(w), NOREF)) };
		d_step { clear_live(REF(w)); w = 0 }
	od
}
#endif

init
{
	atomic {
		run app();
#if APPS > 1
		run app();
#endif
		run evictor();
#if EVICTORS > 1
		run evictor();
#endif
#if PURGERS > 0
		run purger()
#endif
	}
}
