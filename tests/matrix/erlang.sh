# A virtual machine with allocators and carriers of its own.
kind="interpreter" packages="erlang-base"
run() { "$@" erl -noshell -eval 'M = maps:from_list([{I * 7919 rem 1000003, integer_to_list(I)} || I <- lists:seq(1, 300000)]), S = lists:foldl(fun({K, V}, A) -> (A * 31 + K + length(V)) rem 1000000007 end, 0, lists:sort(maps:to_list(M))), io:format("~p ~p~n", [maps:size(M), S]), halt().'; }
