# apps/agent.cmake: the agent's program. Included by apps/CMakeLists.txt.
fm_program(farmem-agent SOURCES agent_main.c DEPS agent base)
