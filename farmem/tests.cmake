# Unit and model-based tests of the runtime. Included by farmem/CMakeLists.txt.
foreach(noun span record slot epoch clean catalog)
	fm_test(${noun}_test SOURCES ${noun}_test.c DEPS runtime ec fabric base LABELS unit)
endforeach()
