/*
 * tests/model/spanset.pml: several spans in one record, and the slots under them (DESIGN sections 6 and 7). The
 * reference for record.c, slot.c, spanset.c and repack.c; span.pml has the finer steps of one word, which are merged
 * here (claim, take and seal are one step, so is a rescue).
 *
 *   record: FREE -> (filling, seen by nobody) -> STABLE -> FREE when its last live bit is cleared
 *                                              STABLE -> CLAIMED -> STABLE   repacker; a claimed record is not freed
 *   A record owns one slot in EVERY column, for live, dead and filler positions alike, from before it is STABLE until
 *   it is FREE: a degraded read of one position uses the others, dead or not (invariant 2). So a slot goes back to its
 *   column with its record, never when its own span leaves (BUG_FREE_DEAD_SLOT).
 *   A live bit belongs to the word, the evictor (old reference of a claimed span) or the repacker that took it over by
 *   CAS. FETCHING keeps it: that is what pins record and slots while a read is on its way, not the epoch.
 *   Repack: claim the records, read the live positions, fill a new record, CAS each word FAR(old) -> FAR(new);
 *   where the CAS fails the NEW position is born dead and the old one stays as it was (BUG_REPACK_STORE).
 *
 * Two spans, two columns, no parity column (it would follow the data columns' fate). Asserted: no slot is taken while
 * somebody owns it; a fetch finds its span's last write; a degraded fetch finds every other position as it was encoded.
 */
#ifndef PURGE
#define PURGE 1
#endif
#ifndef REPACKERS
#define REPACKERS 1
#endif
#define SPANS 2
#define COLUMNS 2
#define RECORDS 3
#define SLOTS 3 /* per column */

#define EMPTY 0
#define NEAR 1
#define EVICTING 2
#define FAR 3
#define FETCHING 4

#define R_FREE 0
#define R_STABLE 1
#define R_CLAIMED 2

#define NOREF 15
#define GARBAGE 9
#define FILLER 8
#define PLACE(r, p) ((r) * 2 + (p))
#define REC(ref) ((ref) / 2)
#define POS(ref) ((ref) % 2)
#define OTHER(ref) PLACE(REC(ref), 1 - POS(ref))
#define AT(col, slot) ((col) * SLOTS + (slot))
#define BYTES(span, version) ((span) * 2 + (version))

byte word_state[SPANS], word_ref[SPANS] = NOREF;
bit val[SPANS], truth[SPANS]; /* near bytes, and what a read must see */
byte staged[SPANS], old_ref[SPANS] = NOREF;

byte rec_state[RECORDS];
bool rec_live[RECORDS * COLUMNS];
byte rec_slot[RECORDS * COLUMNS];
byte slot_bytes[COLUMNS * SLOTS] = GARBAGE;
byte slot_owner[COLUMNS * SLOTS]; /* record + 1, or 0: free */
byte i; /* of d_steps; 0 between them */

inline slot_take(r, col, bytes)
{
	i = 0;
	do
	:: slot_owner[AT(col, i)] != 0 -> i++
	:: else -> break
	od;
	assert(i < SLOTS);
	slot_owner[AT(col, i)] = r + 1;
	slot_bytes[AT(col, i)] = bytes;
	rec_slot[PLACE(r, col)] = i;
	i = 0
}

inline slot_give(r, col)
{
	assert(slot_owner[AT(col, rec_slot[PLACE(r, col)])] == r + 1);
	slot_owner[AT(col, rec_slot[PLACE(r, col)])] = 0;
	slot_bytes[AT(col, rec_slot[PLACE(r, col)])] = GARBAGE
}

inline record_free_if_dead(r)
{
	if
	:: rec_state[r] == R_STABLE && !rec_live[PLACE(r, 0)] && !rec_live[PLACE(r, 1)] ->
#ifndef BUG_FREE_DEAD_SLOT
		slot_give(r, 0);
		slot_give(r, 1);
#endif
		rec_slot[PLACE(r, 0)] = 0;
		rec_slot[PLACE(r, 1)] = 0;
		rec_state[r] = R_FREE
	:: else
	fi
}

inline clear_live(ref)
{
	if
	:: ref != NOREF ->
		assert(rec_live[ref] && rec_state[REC(ref)] != R_FREE);
		rec_live[ref] = false;
		slot_bytes[AT(POS(ref), rec_slot[ref])] = FILLER; /* dead, and no more need be known of it */
#ifdef BUG_FREE_DEAD_SLOT
		slot_give(REC(ref), POS(ref));
#endif
		record_free_if_dead(REC(ref))
	:: else
	fi
}

/* A record with these two positions; FILLER: nobody's. All acknowledged. */
inline record_write(r, bytes0, bytes1)
{
	r = 0;
	do
	:: rec_state[r] != R_FREE -> r++
	:: else -> break
	od;
	slot_take(r, 0, bytes0);
	slot_take(r, 1, bytes1);
	rec_state[r] = R_STABLE;
	rec_live[PLACE(r, 0)] = (bytes0 != FILLER);
	rec_live[PLACE(r, 1)] = (bytes1 != FILLER)
#ifdef BUG_FREE_DEAD_SLOT
	;
	if
	:: bytes0 == FILLER -> slot_give(r, 0)
	:: bytes1 == FILLER -> slot_give(r, 1)
	:: else
	fi
#endif
}

#define A_RECORD_IS_FREE (rec_state[0] == R_FREE || rec_state[1] == R_FREE || rec_state[2] == R_FREE)

/* The program on one span: reads, writes, faults, frees. */
proctype app(byte s)
{
	byte ref;

end:	do
	:: d_step { word_state[s] == NEAR -> assert(val[s] == truth[s]); truth[s] = 1 - truth[s]; val[s] = truth[s] }
	:: d_step { word_state[s] == EMPTY -> word_state[s] = NEAR; val[s] = 0; assert(truth[s] == 0) }
	:: d_step { /* second chance: copied back; the old reference stays the evictor's */
			word_state[s] == EVICTING ->
			val[s] = staged[s] - BYTES(s, 0);
			word_state[s] = NEAR
		}
	:: d_step { word_state[s] == FAR -> word_state[s] = FETCHING; ref = word_ref[s] };
		d_step { /* the read; or, its column being down, a decode from the other positions */
			assert(slot_bytes[AT(POS(ref), rec_slot[ref])] == BYTES(s, truth[s]));
			assert(slot_owner[AT(1 - POS(ref), rec_slot[OTHER(ref)])] == REC(ref) + 1);
			val[s] = slot_bytes[AT(POS(ref), rec_slot[ref])] - BYTES(s, 0);
			assert(word_state[s] == FETCHING && word_ref[s] == ref);
			word_state[s] = NEAR;
			ref = 0
		}
#if PURGE > 0
	:: d_step { /* purge: an EVICTING span is SEALED here, its old reference the evictor's */
			word_state[s] == NEAR || word_state[s] == FAR || word_state[s] == EVICTING ->
			truth[s] = 0;
			val[s] = 0;
			word_state[s] = EMPTY;
			ref = word_ref[s];
			word_ref[s] = NOREF
		};
		d_step { clear_live(ref); ref = 0 }
#endif
	od
}

/* NEAR -> EVICTING: the descriptor takes the old reference over; the word names staging, that is: no record. */
inline evict_claim(s)
{
	word_state[s] = EVICTING;
	old_ref[s] = word_ref[s];
	word_ref[s] = NOREF;
	staged[s] = BYTES(s, val[s]);
	val[s] = 0
}

/* gen is what tells a later claim from this one; with one evictor there is no later claim. */
inline evict_publish(s, place)
{
	d_step {
		if
		:: word_state[s] == EVICTING -> word_state[s] = FAR; word_ref[s] = place
		:: else -> clear_live(place)
		fi;
		staged[s] = 0
	};
	d_step { clear_live(old_ref[s]); old_ref[s] = NOREF }
}

proctype evictor()
{
	byte r;

end:	do
	:: d_step { word_state[0] == NEAR && word_state[1] == NEAR -> evict_claim(0); evict_claim(1) };
		d_step { A_RECORD_IS_FREE -> record_write(r, staged[0], staged[1]) };
		evict_publish(0, PLACE(r, 0));
		evict_publish(1, PLACE(r, 1));
		r = 0
	:: d_step { word_state[0] == NEAR -> evict_claim(0) };
		d_step { A_RECORD_IS_FREE -> record_write(r, staged[0], FILLER) };
		evict_publish(0, PLACE(r, 0));
		r = 0
	:: d_step { word_state[1] == NEAR -> evict_claim(1) };
		d_step { A_RECORD_IS_FREE -> record_write(r, FILLER, staged[1]) };
		evict_publish(1, PLACE(r, 1));
		r = 0
	od
}

/* Record r, claimed: its live position, or NOREF. */
inline repack_live(r, ref)
{
	ref = (rec_live[PLACE(r, 0)] -> PLACE(r, 0) : (rec_live[PLACE(r, 1)] -> PLACE(r, 1) : NOREF))
}

/* The span's word turns from its old place to its new one, if it is still there. */
inline repack_turn(old, new)
{
	d_step {
		s = (slot_bytes[AT(POS(new), rec_slot[new])]) / 2;
		if
#ifdef BUG_REPACK_STORE
		:: true ->
#else
		:: word_state[s] == FAR && word_ref[s] == old ->
#endif
			word_state[s] = FAR; word_ref[s] = new; clear_live(old)
#ifndef BUG_REPACK_STORE
		:: else -> clear_live(new)
#endif
		fi;
		s = 0
	}
}

#define OLD_BYTES(ref) slot_bytes[AT(POS(ref), rec_slot[ref])]
#define SPARSE(r) (rec_state[r] == R_STABLE && (rec_live[PLACE(r, 0)] + rec_live[PLACE(r, 1)] == 1))
#ifdef BUG_REPACK_NO_CLAIM
#define TAKE(r) rec_state[r] = R_STABLE
#else
#define TAKE(r) rec_state[r] = R_CLAIMED
#endif

#if REPACKERS > 0
proctype repacker()
{
	byte a, b, n, s, old_a, old_b;

end:	do
	:: d_step { /* two sparse spansets become one */
			(SPARSE(0) && SPARSE(1)) || (SPARSE(0) && SPARSE(2)) || (SPARSE(1) && SPARSE(2)) ->
			a = (SPARSE(0) -> 0 : 1);
			b = (SPARSE(2) -> 2 : 1);
			TAKE(a);
			TAKE(b)
		};
		atomic {
			repack_live(a, old_a);
			repack_live(b, old_b);
			if
			:: A_RECORD_IS_FREE && old_a != NOREF && old_b != NOREF ->
				assert(OLD_BYTES(old_a) < FILLER && OLD_BYTES(old_b) < FILLER);
				d_step { record_write(n, OLD_BYTES(old_a), OLD_BYTES(old_b)) }
			:: else -> goto repack_over /* no room, or nothing left to move */
			fi
		};
		repack_turn(old_a, PLACE(n, 0));
		repack_turn(old_b, PLACE(n, 1));
repack_over:
		atomic { /* unclaim */
			rec_state[a] = R_STABLE;
			record_free_if_dead(a);
			rec_state[b] = R_STABLE;
			record_free_if_dead(b);
			a = 0; b = 0; n = 0; old_a = 0; old_b = 0
		}
	od
}
#endif

init
{
	atomic {
		run app(0);
		run app(1);
		run evictor();
#if REPACKERS > 0
		run repacker()
#endif
	}
}
