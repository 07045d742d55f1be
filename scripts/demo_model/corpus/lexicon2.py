"""First names, jobs, and topics that one could look up."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

FIRST_NAMES_MORE = """
Aaron Abdul Abeba Abena Abigail Ada Adaeze Adam Adela Adrian Agata Agnes Ahmed Aiko Aileen Aisha
Akira Akua Alan Albert Alejandra Aleksei Alessia Alexander Alfred Ali Alicja Alina Alma Alonso
Amanda Amara Amelie Amina Amit Amos Anders Andre Andrea Andrzej Angela Angus Anil Anita Anja Annika
Anselm Anton Antonia Anwar Aoife Archie Ariadne Arjun Arlo Armando Arne Arthur Arturo Arun Asha
Astrid Asuka Audrey Aurora Ava Axel Ayesha Ayumi Aziz Babak Barbara Barnaby Bartosz Basil Beatrice
Behrouz Benedict Benjamin Bernadette Bernd Bertha Bianca Bilal Bjorn Blanca Bogdan Boris Bram Branko
Brenda Brian Bridget Bronwyn Bryony Caleb Camila Carlos Carmen Caroline Casper Cecilia Cedric
Celeste Chanda Charles Charlotte Chiara Chidi Chike Chinwe Chloe Christian Christine Ciara Claire
Claude Claudia Clement Clive Colette Colin Conor Constance Cosima Craig Cristina Cyril Dafydd Dagmar
Daisy Dalia Damian Daniel Danuta Daphne Darius Darko Darren Dawit Deborah Deepak Delia Dennis Derek
Desmond Devika Dilip Dimitri Dinesh Dolores Dominic Donald Dora Doris Dorothy Douglas Dragan Dunja
Duncan Dylan Ebba Ebenezer Edgar Edith Edmund Eduardo Edward Efua Eileen Einar Eirik Ekaterina
Eleanor Eleni Elias Elif Elio Elisabeth Eloise Elsa Elvira Emeka Emily Emre Enrique Enzo Erica
Ernest Esi Esperanza Esra Esteban Esther Ethan Eugene Eva Evelyn Ewa Ezra Fabian Faisal Faith Farah
Farid Fatou Federico Feng Fenna Ferdinand Fergus Fernanda Filip Fiona Flavia Fleur Flora Florian
Frances Francesca Francois Frederick Frida Fumiko Gabriel Gareth Gavin Gemma Genevieve Geoffrey
Georgia Gerald Gerda Giles Giovanni Gita Gloria Godfrey Gordon Graham Greta Gudrun Guillermo Gunnar
Gwen Habib Hakan Halima Hamish Hamza Hanneke Hannes Hans Haruki Hassan Heather Hector Heidi Helena
Helga Henrik Herbert Hideo Hiroshi Holly Horace Howard Huda Hussein Ian Ibrahim Ignacio Ilse Imani
Imogen Imran Indira Inga Ingrid Iris Irma Isaac Isabel Isak Isla Ismail Itziar Ivo Ivy Jacob
Jacqueline Jade Jamal James Jamila Jasmine Jasper Javier Jean Jelena Jennifer Jeremy Jerome Jesper
Jessica Jiro Joan Joaquin Joel Johanna John Jorge Josef Josephine Joyce Juan Judith Juliet Jun Juma
Justin Jutta Kamal Kamala Kamila Karen Karl Kasimir Katarina Katherine Kathleen Katrin Kazuo Keiko
Keith Kenji Kenneth Kerstin Kevin Khadija Khalid Kiran Kirsten Kofi Kojo Konrad Krishna Kumar Kurt
Kwame Kyle Laila Lakshmi Lars Latifa Laura Laurent Lavinia Leah Leif Leila Leon Leonora Leopold
Leroy Leslie Levi Lewis Liam Lidia Lila Linda Linus Lionel Lisa Ljubica Lola Lorenzo Lorna Lothar
Louisa Luca Lucas Lucian Lucy Ludmila Ludwig Lydia Lynn Mabel Madeleine Magda Magnus Mahmoud Makena
Malcolm Malik Manfred Manuel Marcel Margaret Mariam Marianne Marika Marion Mark Marlene Marta Martin
Marvin Mary Matilda Matteo Matthew Maud Maureen Maurice Max Mehmet Mei Mercedes Michael Michelle
Miguel Mikhail Mildred Milena Milo Mina Miranda Miriam Miroslav Mohan Moira Molly Mona Monica Morgan
Moses Muriel Mustafa Myra Nadia Nadine Naoko Naomi Natalie Nathan Neil Nelson Neville Ngozi Nicholas
Nicola Nicole Nigel Nikhil Niklas Nikos Nirmala Nisha Noel Noor Norbert Noriko Norma Norman Nuria
Nyambura Octavia Odette Olaf Oleg Oliver Olivia Olu Ondrej Orla Orlando Orson Oswald Otto Owen Pablo
Paloma Pamela Paolo Parvati Pascal Patience Patricia Patrick Paula Pauline Pavel Pedro Penelope
Percy Pernille Petar Philip Phoebe Pia Pierre Pilar Piotr Polly Prakash Prudence Rachel Radka Rafael
Rahul Raj Rajesh Ralph Ramon Rana Rania Rasmus Raymond Rebecca Reggie Regina Reiko Renata Rene Rhys
Ricardo Richard Roberta Robin Rodrigo Roger Rohan Roland Roman Ronald Rory Rosalind Rosemary Roxana
Rufus Rupert Russell Ryan Sabina Sabrina Sachiko Sadia Safia Sakura Salim Salma Samira Samuel Sandra
Sanjay Sara Sasha Saskia Saul Sean Sebastian Selim Selma Serena Sergei Shanti Sharon Sheila Shirin
Siddharth Sidney Sienna Sigrid Silvia Simone Sinead Siobhan Siv Solveig Sonja Soren Stanley Stella
Stephanie Stuart Sunil Susan Sven Svetlana Sybil Sylvester Tadeusz Takeshi Tamar Tamsin Tanja Tariq
Tatiana Teresa Terence Tess Thabo Thandiwe Theresa Thomas Thora Tiago Tilda Timothy Tina Tobias
Tomoko Torsten Tracy Trevor Tristan Trudy Tunde Tyrone Ulrich Umar Una Urs Usha Valentina Valerie
Vanessa Vasil Verity Veronica Vesna Victoria Vincent Viola Violet Virginia Vivian Vlad Vusi Waleed
Wallace Warren Wendy Werner Wilfred Wilhelm William Winifred Winston Wojciech Xavier Ximena Yasmin
Yelena Yetunde Yolanda Yosef Yvonne Zach Zahra Zainab Zara Zdenka Zelda Zeynep Zita Zoran Zsofia
Zuri
""".split()

JOBS_MORE = """
accountant acrobat actor actuary adviser animator anthropologist apothecary apprentice archaeologist
architect archivist astronaut astronomer attorney auctioneer auditor author baker ballerina banker
barber barista bartender beekeeper biologist blacksmith bodyguard bookbinder bookkeeper bookseller
botanist brewer bricklayer broker builder butcher butler cabinetmaker captain caretaker carpenter
cartographer cartoonist cashier caterer chauffeur chef chemist choreographer cleaner clerk clown
coach cobbler comedian composer conductor confectioner conservator consultant cook coroner courier
curator dancer decorator dentist dermatologist designer detective dietitian diplomat dispatcher
diver dressmaker drummer ecologist economist editor electrician engineer engraver entertainer
entomologist ferryman filmmaker firefighter fisherman fishmonger florist forester gardener
geographer geologist glassblower glazier goldsmith governess greengrocer grocer guard guide
hairdresser handyman harpist herbalist historian housekeeper hunter illustrator innkeeper inspector
instructor interpreter inventor investigator janitor jeweller jockey joiner journalist judge juggler
labourer landscaper lawyer lecturer librarian lifeguard linguist locksmith logger lumberjack
machinist magician maid manager mason masseur mathematician mechanic merchant meteorologist midwife
miller milliner miner minister model musician nanny navigator neurologist notary novelist nurse
nutritionist optician orthodontist paediatrician painter paralegal paramedic pastor pathologist
perfumer pharmacist philosopher photographer physicist physiotherapist pianist pilot plasterer
plumber poet porter postman potter principal producer professor programmer proofreader psychiatrist
psychologist publisher puppeteer radiologist ranger realtor receptionist referee reporter restorer
roofer saddler salesperson scholar scientist sculptor seamstress secretary sheriff shipwright
shoemaker shopkeeper singer sociologist soldier solicitor stenographer steward stonemason stuntman
surgeon surveyor tailor tanner teacher technician therapist tiler translator treasurer tutor
undertaker upholsterer usher valet veterinarian violinist waiter waitress warden watchmaker weaver
welder wigmaker woodcarver writer zookeeper zoologist
""".split()

TOPICS = """
solar panel subsidies
the siege of Vienna
urban beekeeping rules
vegan cheese recipes
medieval castle kitchens
rental deposit disputes
the invention of radio
coral reef restoration
second-hand cargo bikes
beginner chess openings
the Bronze Age collapse
electric car batteries
sourdough starter care
noise from wind turbines
tax rules for freelancers
houseplants for dark rooms
the fall of Carthage
tick bite symptoms
hiking trails with huts
rescue dogs from abroad
cheap noise cancelling headphones
the history of chocolate
heat pump installers
wild mushroom poisoning
tram network expansion
famous unsolved codes
bicycle helmet tests
Viking burial ships
ancient Egyptian medicine
how vaccines work
mortgage interest rates
the Great Vowel Shift
origami for beginners
sleep and memory
monarch butterfly migration
amateur radio licences
ceramic glaze chemistry
the Treaty of Tordesillas
gluten-free bakeries
child car seats
shipwrecks in the Baltic
plastic-free packaging
the origin of tango
volcano monitoring drones
first aid courses
grants for young musicians
left-handed guitars
tea ceremony etiquette
the Rosetta Stone
asteroid mining companies
lactose intolerance tests
used camper vans
night trains through Europe
the oldest known song
mosquito repellent plants
carbon capture plants
Roman concrete
knitting patterns for socks
minimum wage changes
public swimming pools
the Dancing Plague
learner driver insurance
octopus intelligence
rainwater tanks
pension age reforms
allergies in cats
restoring oak floors
the Suez Canal crisis
paper marbling techniques
women in early cinema
indoor climbing gyms
the Hanseatic League
compost toilets
famous chess blunders
salary of firefighters
deep sea creatures
flat roof repair
language exchange partners
black hole photographs
child labour laws
the Silk Road
barefoot running shoes
braille keyboards
how glaciers move
Japanese joinery
eggshell colours
parental leave rules
quantum computer startups
the Terracotta Army
bat boxes
sign language courses
tooth enamel repair
rare earth metals
the Dust Bowl
secret gardens in Europe
library opening days
adopting a donkey
the printing press
recycling of mattresses
lighthouse museums
squeaky door hinges
haunted hotels
the Marshall Plan
bioluminescent beaches
cider making at home
growing saffron
museum free days
bird flu outbreaks
Norse mythology names
the Antikythera mechanism
steam locomotive models
tiny house regulations
tidal power stations
nut allergy cards
cat friendly curtains
Mayan calendar myths
school lunch programmes
lost Bach cantatas
whale song research
the gold standard
dry stone walling
hypnosis against smoking
cave paintings in Spain
digital nomad visas
dyslexia friendly fonts
desalination costs
pet passports
the Battle of Hastings
iron deficiency signs
making soap at home
penguin colonies
blacksmith courses
early photography processes
the metric system
cold frame gardening
robot vacuum reviews
truffle hunting dogs
volunteering at festivals
Celtic knot meanings
the Apollo guidance computer
baby sleep routines
bamboo flooring problems
underwater archaeology
train strike dates
gout and diet
the Black Death
clockmakers of Geneva
folding kayaks
stained glass workshops
inheritance without a will
bonsai pruning
space debris cleanup
famous art forgeries
garden pond filters
the Peloponnesian War
migraine triggers
wool moth traps
Inca road network
bus passes for pensioners
silent film scores
dark sky parks
how cheese ripens
bridge engineering failures
fermented hot sauce
roundabout driving rules
polar bear numbers
the Meiji era
dental implants abroad
school uniforms
fireproof safes
bullet journal layouts
tulip mania
mould in bathrooms
organ donor cards
wooden toy safety
the Gutenberg Bible
jet stream changes
cricket rules explained
orchestra auditions
apartment balcony gardens
Mongol postal stations
nuclear fusion progress
cork harvesting
puppy vaccination schedules
samurai armour
seed banks
loan sharks
the Berlin Airlift
ski wax types
rope knots for sailors
chickens in small gardens
Ottoman tile patterns
scholarships for nurses
gravitational waves
historic tram museums
lemon tree diseases
stage fright remedies
the Wright brothers
mountain hut bookings
folk dances of Hungary
rust removal
hedgehog rescue centres
opera ticket discounts
earthquake early warning
Persian carpet knots
yoga for back pain
the Enigma machine
slow travel blogs
bread ovens for gardens
tattoo removal
wedding venues by lakes
robotic surgery risks
peat free soil
medieval bestiaries
hearing aid prices
community choirs
the Louisiana Purchase
sea turtle nesting
kitchen knife steels
canal boat holidays
trade union membership
Arctic shipping routes
typewriter ribbons
quicksand facts
comet sightings
the Magna Carta
used piano prices
composting citrus peel
insect protein snacks
Byzantine mosaics
lottery winner stories
cargo airships
speech therapy exercises
hydrogen buses
Polynesian navigation
antique map dealers
stamp collecting clubs
gluten in oats
the Panama Canal
fear of flying courses
spider silk fabrics
toddler swimming classes
leap seconds
meteorite hunting
bakery franchise costs
the Library of Alexandria
electric scooter laws
vintage synthesizer repair
tea plantations
forest kindergartens
house swap websites
the Spanish Armada
shoe sole materials
colour blindness glasses
ransomware attacks
rooftop solar permits
olive oil fraud
circus schools
the Easter Rising
mushroom leather
gluten free pasta brands
ice age mammals
bird ringing stations
magnetic pole shift
marathon training plans
letterpress printing
the Trojan Horse
Swedish death cleaning
crop rotation
pottery kilns
old cinema posters
elevator safety history
sugar substitutes
truck driver shortages
Etruscan tombs
""".strip().split("\n")
